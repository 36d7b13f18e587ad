"""AWQ: scales that follow the activations, folded where they cost nothing, and never a loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CalibrationError
from engines.quantize import CALIBRATED
from engines.quantize.activations import measure_activations
from engines.quantize.formats.int4 import dequantize
from engines.quantize.methods.awq import awq_scales, quantize_awq
from engines.quantize.methods.fold import divided
from engines.quantize.methods.rtn import quantize_rtn
from tests.engines.quantize.data import matrix_and_inputs, problems, relative_error


def restored(rescaled):
    return dequantize(rescaled.calibrated.matrix) / rescaled.input_scales


@given(problems())
def test_outputs_are_never_further_off_than_by_rounding_to_nearest(problem):
    weight, inputs, block_size, activations = problem

    found = quantize_awq(weight, block_size, activations)

    plain = relative_error(weight, dequantize(quantize_rtn(weight, block_size)), inputs)
    assert found.calibrated.output_error <= found.calibrated.rtn_output_error
    assert relative_error(weight, restored(found), inputs) <= plain * 1.001 + 1e-5


@given(problems())
def test_its_scales_with_gptqs_rounding_are_never_further_off_either(problem):
    weight, inputs, block_size, activations = problem
    scales = quantize_awq(weight, block_size, activations).input_scales

    found = CALIBRATED["awq-gptq"].round(weight * scales, block_size, divided(activations, scales))

    plain = relative_error(weight, dequantize(quantize_rtn(weight, block_size)), inputs)
    assert relative_error(weight, dequantize(found.matrix) / scales, inputs) <= plain * 1.001 + 1e-5


@given(problems())
def test_the_errors_it_states_are_those_of_the_rows(problem):
    weight, inputs, block_size, activations = problem

    found = quantize_awq(weight, block_size, activations)

    measured = relative_error(weight, restored(found), inputs)
    assert found.calibrated.output_error == pytest.approx(measured, rel=0.01, abs=1e-5)


def test_few_loud_channels_are_scaled_up():
    weight, inputs = matrix_and_inputs(0, 64, 256, 2000)
    loud = [5, 77, 200]
    inputs[:, loud] *= 50
    seen, unseen = inputs[:1500], inputs[1500:]

    found = quantize_awq(weight, 128, measure_activations(seen))

    plain = relative_error(weight, dequantize(quantize_rtn(weight, 128)), unseen)
    assert found.alpha > 0
    assert found.input_scales[loud].min() > np.median(found.input_scales)
    assert relative_error(weight, restored(found), unseen) < plain / 4


@pytest.mark.parametrize("bits", [2, 3])
def test_fewer_bits_are_no_further_off_than_by_rounding_to_nearest(bits):
    weight, inputs = matrix_and_inputs(0, 32, 128, 500, outliers=4)

    found = quantize_awq(weight, 64, measure_activations(inputs), bits=bits)

    assert np.unique(found.calibrated.matrix.steps).size <= 1 << bits
    plain = relative_error(weight, dequantize(quantize_rtn(weight, 64, bits)), inputs)
    assert relative_error(weight, restored(found), inputs) < plain


@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_a_louder_channel_never_gets_a_smaller_scale(seed, alpha):
    magnitudes = np.random.default_rng(seed).gamma(0.3, size=50).astype(np.float32) + np.float32(1e-6)

    scales = awq_scales(magnitudes, alpha)

    assert (np.diff(scales[np.argsort(magnitudes)]) >= 0).all()
    assert scales.max() * scales.min() == pytest.approx(1, rel=1e-3)


def test_alpha_zero_scales_nothing():
    np.testing.assert_array_equal(awq_scales(np.float32([0, 1, 5]), 0.0), np.ones(3))


def test_channels_of_one_producer_share_their_scale():
    weight, inputs = matrix_and_inputs(3, 32, 64, 800)
    inputs[:, [3, 40]] *= 60
    producers = np.tile(np.arange(32), 2)

    scales = quantize_awq(weight, 32, measure_activations(inputs), producers).input_scales

    assert scales.max() > 1
    np.testing.assert_array_equal(scales[:32], scales[32:])


def test_weights_of_zeros_stay_zeros():
    _, inputs = matrix_and_inputs(0, 1, 64, 100)

    found = quantize_awq(np.zeros((4, 64), np.float32), 32, measure_activations(inputs))

    assert not restored(found).any()
    assert (found.input_scales == 1).all()


def test_the_same_data_give_the_same_bytes():
    weight, inputs = matrix_and_inputs(0, 32, 192, 400, outliers=3)
    first, second = (quantize_awq(weight, 64, measure_activations(inputs)) for _ in range(2))

    np.testing.assert_array_equal(first.calibrated.matrix.packed, second.calibrated.matrix.packed)
    np.testing.assert_array_equal(first.input_scales, second.input_scales)


def test_activations_of_another_matrix_are_refused():
    weight, inputs = matrix_and_inputs(0, 4, 32, 50)

    with pytest.raises(CalibrationError, match="16 channels were given for a matrix of 32"):
        quantize_awq(weight, 32, measure_activations(inputs[:, :16]))
