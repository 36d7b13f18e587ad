"""Smoothing before INT8: outlier channels move into the weights, where that helps and only there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CalibrationError
from engines.quantize.activations import measure_activations
from engines.quantize.methods.smooth import choose_smoothing, smoothing_scales
from tests.engines.quantize.data import matrix_and_inputs, problems


def seen(inputs):
    return replace(measure_activations(inputs), held_out=inputs)


@given(problems())
def test_it_is_never_worse_than_no_smoothing(problem):
    weight, inputs, _, _ = problem

    found = choose_smoothing(weight, seen(inputs))

    assert found.output_error <= found.plain_output_error
    assert (found.input_scales == 1).all() or found.strength > 0


@given(problems())
def test_the_errors_it_states_are_those_of_rounding_both_sides(problem):
    weight, inputs, _, _ = problem

    found = choose_smoothing(weight, seen(inputs))

    x, w = inputs / found.input_scales, weight * found.input_scales
    x_step = np.abs(x).max() / 127
    w_steps = np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30) / 127
    rounded = (np.rint(x / x_step) * x_step) @ (np.rint(w / w_steps) * w_steps).T
    expected = inputs.astype(np.float64) @ weight.T
    error = np.square(rounded - expected).sum() / np.square(expected).sum()
    assert found.output_error == pytest.approx(error, rel=0.02, abs=1e-6)


def test_ranges_that_clip_are_those_that_it_chooses_for():
    weight, inputs = matrix_and_inputs(0, 32, 128, 500)
    inputs[0, 3] = 10_000  # one spike, which a percentile cuts off

    clipped = choose_smoothing(weight, seen(inputs), range_of=lambda values: float(np.quantile(np.abs(values), 0.999)))

    assert clipped.strength != choose_smoothing(weight, seen(inputs)).strength


def test_few_loud_channels_cost_ten_times_less():
    weight, inputs = matrix_and_inputs(0, 32, 128, 500)
    inputs[:, [3, 60]] *= 100

    found = choose_smoothing(weight, seen(inputs))

    assert found.output_error < found.plain_output_error / 10
    assert found.input_scales[[3, 60]].min() > 2 * np.median(found.input_scales)


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_a_louder_channel_never_gets_a_smaller_scale(seed, strength):
    rng = np.random.default_rng(seed)
    magnitudes = rng.gamma(0.5, size=40).astype(np.float32)

    scales = smoothing_scales(magnitudes, np.ones(40, np.float32), strength)

    assert (np.diff(scales[np.argsort(magnitudes)]) >= 0).all()


def test_channels_of_one_producer_share_their_scale():
    weight, inputs = matrix_and_inputs(3, 16, 64, 200)
    inputs[:, [3, 40]] *= 100

    scales = choose_smoothing(weight, seen(inputs), np.tile(np.arange(32), 2)).input_scales

    assert scales.max() > 1
    np.testing.assert_array_equal(scales[:32], scales[32:])


def test_weights_of_zeros_need_no_smoothing():
    _, inputs = matrix_and_inputs(0, 1, 32, 20)

    assert choose_smoothing(np.zeros((4, 32), np.float32), seen(inputs)).strength == 0


def test_rows_that_are_not_finite_are_refused():
    _, inputs = matrix_and_inputs(0, 1, 8, 20)

    for rows in (None, np.full((2, 8), np.nan, np.float32)):
        with pytest.raises(CalibrationError, match="expected some that are finite"):
            choose_smoothing(np.ones((4, 8), np.float32), replace(measure_activations(inputs), held_out=rows))


def test_activations_of_another_matrix_are_refused():
    _, inputs = matrix_and_inputs(0, 1, 7, 20)

    with pytest.raises(CalibrationError, match="7 channels were given for a matrix of 8"):
        choose_smoothing(np.ones((4, 8), np.float32), seen(inputs))
