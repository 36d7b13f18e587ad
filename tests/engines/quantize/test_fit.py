"""Searched scales: never worse than rounding to nearest in the loss that they were searched for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import CheckpointError
from engines.quantize.formats.int4 import dequantize, in_blocks, quantized_bytes
from engines.quantize.methods.range_search import quantize_fitted
from engines.quantize.methods.rtn import quantize_rtn
from tests.engines.quantize.data import problems

finite = st.floats(-60000, 60000, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=finite)
blocks = st.sampled_from([16, 32, 64, 128])


@given(matrices, blocks)
def test_no_block_of_weights_loses_more_than_by_rounding_to_nearest(weight, block_size):
    def losses(matrix):
        return np.square(in_blocks(weight - dequantize(matrix), block_size).astype(np.float64)).sum(axis=2)

    plain = losses(quantize_rtn(weight, block_size))

    assert (losses(quantize_fitted(weight, block_size)) <= plain * (1 + 1e-5)).all()


@given(problems())
def test_no_block_of_outputs_loses_more_than_by_rounding_to_nearest(problem):
    weight, _, block_size, activations = problem
    grams = activations.block_grams(block_size)

    def losses(matrix):
        errors = in_blocks(weight - dequantize(matrix), block_size).astype(np.float64)
        return np.einsum("ngi,gij,ngj->ng", errors, grams.astype(np.float64), errors)

    plain = losses(quantize_rtn(weight, block_size))

    assert (losses(quantize_fitted(weight, block_size, grams)) <= plain * 1.001 + grams.max() * 1e-4).all()


def test_normal_weights_lose_a_fifth_less_at_128_a_block():
    weight = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)

    fitted = np.square(weight - dequantize(quantize_fitted(weight, 128))).sum()

    assert fitted < 0.8 * np.square(weight - dequantize(quantize_rtn(weight, 128))).sum()


@given(matrices, blocks)
def test_scales_are_above_zero_and_at_most_the_plain_ones_times_two(weight, block_size):
    fitted, plain = quantize_fitted(weight, block_size), quantize_rtn(weight, block_size)

    assert (fitted.scales > 0).all()
    assert (fitted.scales.astype(np.float32) <= 2 * plain.scales.astype(np.float32)).all()


@given(hnp.arrays(np.float32, (3, 64), elements=st.floats(-100, 100, width=16)), st.integers(1, 6))
def test_scales_grow_as_the_weights_do(weight, power):
    weight = np.where(np.abs(weight) < 0.5, 0, weight)  # so that no scale is subnormal
    small, large = quantize_fitted(weight, 32), quantize_fitted(weight * 2**power, 32)

    zero_blocks = ~in_blocks(weight, 32).any(axis=2)
    np.testing.assert_array_equal(large.packed, small.packed)
    np.testing.assert_array_equal(large.scales, np.where(zero_blocks, 1, small.scales * 2**power))


@given(matrices, blocks)
def test_zeros_stay_zeros_and_the_bytes_are_those_planned(weight, block_size):
    matrix = quantize_fitted(weight, block_size)

    assert (dequantize(matrix)[weight == 0] == 0).all()
    assert matrix.packed.nbytes + matrix.scales.nbytes == quantized_bytes(*weight.shape, block_size)


def test_large_matrices_are_quantized_like_their_rows():
    weight = np.random.default_rng(0).normal(size=(1500, 1024)).astype(np.float32)

    whole, last = quantize_fitted(weight, 128), quantize_fitted(weight[-1:], 128)

    np.testing.assert_array_equal(whole.packed[-1:], last.packed)
    np.testing.assert_array_equal(whole.scales[-1:], last.scales)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_values_without_a_float16_scale_are_refused(value):
    weight = np.ones((4, 16), np.float32)
    weight[2, 3] = value

    with pytest.raises(CheckpointError, match="finite"):
        quantize_fitted(weight, 16)
