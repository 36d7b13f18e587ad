"""GPTQ: what its outputs gain over rounding to nearest, and that they never lose."""

import numpy as np
import pytest
from hypothesis import given

from edge_runtime.errors import CalibrationError, CheckpointError
from engines.quantize.activations import Activations, measure_activations
from engines.quantize.formats.int4 import dequantize, quantized_bytes
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.methods.rtn import quantize_rtn
from tests.engines.quantize.data import matrix_and_inputs, problems, relative_error


@given(problems())
def test_outputs_are_never_further_off_than_by_rounding_to_nearest(problem):
    weight, inputs, block_size, activations = problem

    found = quantize_gptq(weight, block_size, activations)

    plain = relative_error(weight, dequantize(quantize_rtn(weight, block_size)), inputs)
    assert found.output_error <= found.rtn_output_error
    assert relative_error(weight, dequantize(found.matrix), inputs) <= plain * 1.001 + 1e-5


@given(problems())
def test_the_errors_it_states_are_those_of_the_rows(problem):
    weight, inputs, block_size, activations = problem

    found = quantize_gptq(weight, block_size, activations)

    measured = relative_error(weight, dequantize(found.matrix), inputs)
    assert found.output_error == pytest.approx(measured, rel=0.01, abs=1e-5)


@given(problems())
def test_the_format_and_the_bytes_are_those_of_rounding_to_nearest(problem):
    weight, _, block_size, activations = problem

    matrix = quantize_gptq(weight, block_size, activations).matrix

    assert matrix.packed.nbytes + matrix.scales.nbytes == quantized_bytes(*weight.shape, block_size)
    assert dequantize(matrix).shape == weight.shape
    assert (matrix.scales > 0).all()


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_correlated_inputs_gain_severalfold_also_where_they_were_not_seen(block_size):
    weight, inputs = matrix_and_inputs(0, 64, 256, 4000, outliers=4)
    seen, unseen = inputs[:3000], inputs[3000:]

    found = quantize_gptq(weight, block_size, measure_activations(seen))

    plain = relative_error(weight, dequantize(quantize_rtn(weight, block_size)), unseen)
    assert relative_error(weight, dequantize(found.matrix), unseen) < plain / 4


def test_every_bit_less_costs_more_and_stays_ahead_of_rounding_to_nearest():
    weight, inputs = matrix_and_inputs(0, 32, 128, 2000)
    activations = measure_activations(inputs)

    four, three, two = (quantize_gptq(weight, 64, activations, bits) for bits in (4, 3, 2))

    assert four.output_error < three.output_error < two.output_error
    for bits, found in ((4, four), (3, three), (2, two)):
        assert np.unique(found.matrix.steps).size <= 1 << bits
        assert found.output_error < found.rtn_output_error / 2


def test_independent_inputs_round_each_weight_by_itself():
    weight, _ = matrix_and_inputs(0, 8, 64, 1)
    identity = Activations(np.eye(64, dtype=np.float32), np.ones(64, np.float32), np.ones(64, np.float32), 64)

    found = quantize_gptq(weight, 32, identity)

    steps = np.repeat(found.matrix.scales.astype(np.float32), 32, axis=1)
    inside = np.abs(weight) < steps * 7.4
    assert (np.abs(dequantize(found.matrix) - weight)[inside] <= (steps * 0.55)[inside]).all()


def test_dead_channels_keep_their_weights():
    weight, inputs = matrix_and_inputs(0, 16, 64, 500)
    inputs[:, 10:20] = 0

    restored = dequantize(quantize_gptq(weight, 32, measure_activations(inputs)).matrix)

    assert np.abs(restored - weight)[:, 10:20].max() < 0.5 * np.abs(weight).max()
    assert np.corrcoef(restored[:, 10:20].ravel(), weight[:, 10:20].ravel())[0, 1] > 0.98


def test_fewer_rows_than_channels_are_enough_to_run():
    weight, inputs = matrix_and_inputs(0, 16, 256, 3)

    found = quantize_gptq(weight, 128, measure_activations(inputs))

    assert found.output_error < 0.1 * found.rtn_output_error


def test_weights_of_zeros_stay_zeros():
    _, inputs = matrix_and_inputs(0, 1, 64, 100)

    found = quantize_gptq(np.zeros((4, 64), np.float32), 32, measure_activations(inputs))

    assert not dequantize(found.matrix).any()
    assert found.output_error == 0


def test_the_same_data_give_the_same_bytes():
    weight, inputs = matrix_and_inputs(0, 32, 192, 400, outliers=3)
    first, second = (quantize_gptq(weight, 64, measure_activations(inputs)).matrix for _ in range(2))

    np.testing.assert_array_equal(first.packed, second.packed)
    np.testing.assert_array_equal(first.scales, second.scales)


def test_a_weight_that_is_not_finite_is_refused():
    weight, inputs = matrix_and_inputs(0, 4, 32, 50)
    weight[1, 2] = np.nan

    with pytest.raises(CheckpointError, match="finite"):
        quantize_gptq(weight, 32, measure_activations(inputs))


def test_activations_of_another_matrix_are_refused():
    weight, inputs = matrix_and_inputs(0, 4, 32, 50)

    with pytest.raises(CalibrationError, match="16 channels were given for a matrix of 32"):
        quantize_gptq(weight, 32, measure_activations(inputs[:, :16]))


def test_a_gram_matrix_that_is_none_is_refused():
    weight, _ = matrix_and_inputs(0, 4, 2, 1)
    gram = np.array([[1, 9], [9, 1]], np.float32)

    with pytest.raises(CalibrationError, match="calibrate again"):
        quantize_gptq(weight, 16, Activations(gram, np.ones(2, np.float32), np.ones(2, np.float32), 2))
