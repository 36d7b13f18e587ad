"""Histograms of magnitudes: nothing is lost while they grow, and order does not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import CalibrationError
from engines.quantize.histogram import BINS, Histogram

values = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def histogram(*parts):
    result = Histogram()
    for part in parts:
        result.add(part)
    return result


def same(one, other):
    return (one.exponent, one.largest) == (other.exponent, other.largest) and (one.counts == other.counts).all()


@given(values)
def test_every_value_but_zero_is_counted(array):
    found = histogram(array)

    assert found.counts.sum() == np.count_nonzero(array)
    assert (found.counts >= 0).all()
    assert found.largest == np.abs(array).max(initial=0)


@given(values)
def test_a_value_lies_in_the_bin_of_its_magnitude(array):
    found = histogram(array)

    bins = np.floor(np.abs(array[array != 0]).astype(np.float64) / found.width).astype(int)
    np.testing.assert_array_equal(found.counts, np.bincount(bins, minlength=BINS))


@given(values, values, values)
def test_the_order_of_values_does_not_matter(a, b, c):
    assert same(histogram(a, b, c), histogram(np.concatenate([c, a, b])))


@given(values, values)
def test_histograms_add_up_to_that_of_all_values(a, b):
    assert same(histogram(a).merge(histogram(b)), histogram(a, b))


@given(values)
def test_signs_do_not_matter(array):
    assert same(histogram(array), histogram(-array))


@given(st.floats(2.0**-100, 2.0**127, width=32))
def test_at_least_half_of_the_bins_are_in_use(largest):
    assert BINS // 2 < histogram(np.array([largest], np.float32)).used <= BINS


def test_a_histogram_of_zeros_is_empty():
    found = histogram(np.zeros(5, np.float32))

    assert (found.used, found.largest, found.counts.sum()) == (0, 0.0, 0)


def test_float16_is_counted_as_the_numbers_it_holds():
    array = np.array([0.1, -65504, 6e-8], np.float16)

    assert same(histogram(array), histogram(array.astype(np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        histogram(np.array([1.0, value], np.float32))
