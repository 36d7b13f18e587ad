"""Rounding to 8 bits by row: what it keeps, what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import CheckpointError
from engines.quantize.formats.int8 import dequantize_int8, int8_bytes, quantize_int8

finite = st.floats(-60000, 60000, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=finite)


@given(matrices)
def test_no_value_moves_by_more_than_half_a_step(weight):
    matrix = quantize_int8(weight)

    assert (np.abs(dequantize_int8(matrix) - weight) <= matrix.scales.astype(np.float32)[:, None] * 0.5001).all()


@given(matrices)
def test_a_rows_step_is_a_127th_of_its_largest_magnitude(weight):
    largest = np.abs(weight).max(axis=1)
    ordinary = largest > 0.01  # smaller ones have coarser float16 scales

    np.testing.assert_allclose(quantize_int8(weight).scales[ordinary], largest[ordinary] / 127, rtol=1e-3)


@given(matrices)
def test_no_scale_falls_where_magnitudes_grow(weight):
    grown = np.where(np.abs(weight) < 30000, weight * 2, weight)
    used = weight.any(axis=1)  # rows of zeros have the scale 1

    assert (quantize_int8(grown).scales[used] >= quantize_int8(weight).scales[used]).all()


@given(matrices, st.integers(0, 5))
def test_a_row_does_not_depend_on_the_others(weight, row):
    row %= len(weight)
    alone, together = quantize_int8(weight[row : row + 1]), quantize_int8(weight)

    np.testing.assert_array_equal(alone.codes[0], together.codes[row])
    assert alone.scales[0] == together.scales[row]


@given(matrices)
def test_the_negative_of_a_matrix_has_the_negative_codes(weight):
    matrix, negative = quantize_int8(weight), quantize_int8(-weight)

    np.testing.assert_array_equal(matrix.codes, -negative.codes)
    np.testing.assert_array_equal(matrix.scales, negative.scales)


@given(matrices)
def test_zeros_stay_zeros_and_the_lowest_code_is_never_used(weight):
    matrix = quantize_int8(weight)

    assert (matrix.codes[weight == 0] == 0).all()
    assert (matrix.codes > -128).all()


@given(matrices)
def test_quantizing_twice_changes_nothing(weight):
    once = dequantize_int8(quantize_int8(weight))

    np.testing.assert_allclose(dequantize_int8(quantize_int8(once)), once, rtol=2e-3, atol=1e-6)


@given(matrices)
def test_the_bytes_are_those_that_were_planned(weight):
    matrix = quantize_int8(weight)

    assert matrix.codes.nbytes + matrix.scales.nbytes == int8_bytes(*weight.shape)
    assert (matrix.rows, matrix.columns) == weight.shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_values_without_a_float16_scale_are_refused(value):
    weight = np.ones((4, 16), np.float32)
    weight[2, 3] = value

    with pytest.raises(CheckpointError, match="finite"):
        quantize_int8(weight)


def test_large_matrices_are_quantized_like_their_rows():
    weight = np.random.default_rng(0).normal(size=(5000, 1024)).astype(np.float16)

    whole, last = quantize_int8(weight), quantize_int8(weight[-1:])

    np.testing.assert_array_equal(whole.codes[-1:], last.codes)
    np.testing.assert_array_equal(whole.scales[-1:], last.scales)
