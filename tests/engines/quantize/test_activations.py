"""Statistics of activations: the same however the rows come, and nothing that isn't finite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CalibrationError
from engines.quantize.activations import ActivationMeter, measure_activations
from tests.engines.quantize.data import matrix_and_inputs, problems


@given(problems())
def test_they_are_what_their_names_say(problem):
    _, inputs, _, found = problem
    exact = inputs.astype(np.float64)

    np.testing.assert_allclose(found.gram, exact.T @ exact / len(exact), rtol=1e-4, atol=1e-5 * np.square(exact).max())
    np.testing.assert_allclose(found.mean_magnitudes, np.abs(exact).mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(found.largest_magnitudes, np.abs(inputs).max(axis=0))
    np.testing.assert_array_equal(found.gram, found.gram.T)
    assert found.rows == len(inputs)


@given(problems(), st.integers(1, 50))
def test_they_are_the_same_however_the_rows_are_split(problem, step):
    _, inputs, _, whole = problem
    meter = ActivationMeter(inputs.shape[1])
    for start in range(0, len(inputs), step):
        meter.add(inputs[None, start : start + step])
    parts = meter.finish()

    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-4, atol=1e-5 * whole.gram.max())
    np.testing.assert_allclose(parts.mean_magnitudes, whole.mean_magnitudes, rtol=1e-5)
    np.testing.assert_array_equal(parts.largest_magnitudes, whole.largest_magnitudes)


def test_a_matrix_wider_than_a_strip_is_summed_whole():
    _, inputs = matrix_and_inputs(0, 1, 1500, 20)

    gram = measure_activations(inputs).gram

    np.testing.assert_allclose(gram, inputs.T @ inputs / 20, atol=1e-3)


@given(problems())
def test_output_errors_are_those_of_the_rows_themselves(problem):
    weight, inputs, _, activations = problem

    errors = activations.output_errors(weight)

    expected = np.square(inputs.astype(np.float64) @ weight.T).mean(axis=0)
    np.testing.assert_allclose(errors, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused_with_their_channel(value):
    rows = np.ones((5, 8), np.float32)
    rows[2, 3] = value

    with pytest.raises(CalibrationError, match=r"channel 3 .*keep that in float32"):
        ActivationMeter(8).add(rows)


def test_activations_whose_squares_overflow_are_refused():
    with pytest.raises(CalibrationError, match="overflow float32"):
        measure_activations(np.full((2, 4), 1e20, np.float32))


def test_another_width_is_refused():
    with pytest.raises(CalibrationError, match="7 channels; expected 8"):
        ActivationMeter(8).add(np.ones((2, 7), np.float32))


@pytest.mark.parametrize(("rows", "complaint"), [(0, "no activations"), (3, "3 rows of zeros")])
def test_nothing_to_measure_is_refused(rows, complaint):
    with pytest.raises(CalibrationError, match=complaint):
        measure_activations(np.zeros((rows, 8), np.float32))
