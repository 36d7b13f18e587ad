"""Rounding to 4 bits: what it keeps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import CheckpointError
from engines.quantize.formats.int4 import in_blocks
from engines.quantize.methods.rtn import block_size_for, dequantize, quantize_rtn, quantized_bytes

finite = st.floats(-60000, 60000, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=finite)
blocks = st.sampled_from([16, 32, 64, 128])


@given(matrices, blocks)
def test_no_value_moves_by_more_than_half_a_step(weight, block_size):
    matrix = quantize_rtn(weight, block_size)

    steps = np.repeat(matrix.scales.astype(np.float32), block_size, axis=1)[:, : weight.shape[1]]

    assert (np.abs(dequantize(matrix) - weight) <= steps * 0.5001).all()


@given(matrices, blocks)
def test_the_step_is_a_seventh_of_the_blocks_largest_magnitude(weight, block_size):
    matrix = quantize_rtn(weight, block_size)

    padded = np.zeros((len(weight), matrix.scales.shape[1] * block_size), np.float32)
    padded[:, : weight.shape[1]] = np.abs(weight)
    largest = padded.reshape(*matrix.scales.shape, block_size).max(axis=2)
    ordinary = largest > 1e-3  # smaller ones have coarser float16 scales

    np.testing.assert_allclose(matrix.scales[ordinary], largest[ordinary] / 7, rtol=1e-3)


@given(matrices, blocks)
def test_no_scale_falls_where_magnitudes_grow(weight, block_size):
    larger = np.where(np.abs(weight) < 30000, weight * 2, weight)

    before, after = quantize_rtn(weight, block_size), quantize_rtn(larger, block_size)

    used = in_blocks(weight, block_size).any(axis=2)  # blocks of zeros have the scale 1
    assert (after.scales[used] >= before.scales[used]).all()


@given(matrices, st.sampled_from([2, 3, 4]))
def test_fewer_bits_use_fewer_steps_and_no_value_moves_by_more_than_half_of_one(weight, bits):
    matrix = quantize_rtn(weight, 16, bits)

    steps = np.repeat(matrix.scales.astype(np.float32), 16, axis=1)[:, : weight.shape[1]]

    assert np.abs(matrix.steps).max() < 1 << bits - 1
    assert (np.abs(dequantize(matrix) - weight) <= steps * 0.5001).all()


@given(matrices, blocks)
def test_zeros_stay_zeros(weight, block_size):
    restored = dequantize(quantize_rtn(weight, block_size))

    assert (restored[weight == 0] == 0).all()


@given(matrices, blocks)
def test_quantizing_twice_changes_nothing(weight, block_size):
    once = dequantize(quantize_rtn(weight, block_size))

    np.testing.assert_allclose(dequantize(quantize_rtn(once, block_size)), once, rtol=2e-3, atol=1e-6)


@given(matrices, blocks)
def test_the_bytes_are_those_that_were_planned(weight, block_size):
    matrix = quantize_rtn(weight, block_size)

    assert matrix.packed.nbytes + matrix.scales.nbytes == quantized_bytes(*weight.shape, block_size)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 6e-8, -65504.0])
def test_a_constant_block_is_kept_to_the_precision_of_its_scale(value):
    weight = np.full((2, 32), value, np.float32)

    np.testing.assert_allclose(dequantize(quantize_rtn(weight, 16)), weight, rtol=1e-3, atol=6e-8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_values_without_a_float16_scale_are_refused(value):
    weight = np.ones((4, 16), np.float32)
    weight[2, 3] = value

    with pytest.raises(CheckpointError, match="finite"):
        quantize_rtn(weight, 16)


def test_codes_are_packed_two_a_byte_with_the_low_nibble_first():
    weight = np.zeros((1, 16), np.float32)
    weight[0, :3] = [7, -7, 1]

    matrix = quantize_rtn(weight, 16)

    assert matrix.scales.tolist() == [[1.0]]
    assert matrix.packed[0, 0, 0] == (8 + 7) | (8 - 7) << 4
    assert matrix.packed[0, 0, 1] == (8 + 1) | 8 << 4


def test_large_matrices_are_quantized_like_their_rows():
    weight = np.random.default_rng(0).normal(size=(5000, 1024)).astype(np.float32)

    whole, last = quantize_rtn(weight, 128), quantize_rtn(weight[-1:], 128)

    np.testing.assert_array_equal(whole.packed[-1:], last.packed)
    np.testing.assert_array_equal(whole.scales[-1:], last.scales)


@pytest.mark.parametrize(("columns", "expected"), [(4096, 128), (11008, 128), (192, 64), (48, 16), (588, 16), (7, 16)])
def test_a_block_divides_the_width_where_a_power_of_two_does(columns, expected):
    assert block_size_for(columns, 128) == expected
