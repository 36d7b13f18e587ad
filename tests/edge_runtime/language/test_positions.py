"""Rotary tables: the angles of each family's own formula, for every scaling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.bundle.manifest import PositionSpec, RotarySpec
from edge_runtime.language.positions import position_tables, rotary_frequencies, rotary_tables


def test_a_table_has_a_row_a_position_and_a_column_a_pair() -> None:
    cos, sin = rotary_tables(RotarySpec(10_000.0, 8), 5)
    assert cos.shape == sin.shape == (5, 4)
    angles = [3 * 10_000.0 ** -(i / 4) for i in range(4)]
    np.testing.assert_allclose(cos[3], np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin[3], np.sin(angles), rtol=1e-6)


def test_linear_scaling_reaches_so_many_times_as_far() -> None:
    plain, scaled = RotarySpec(10_000.0, 16), RotarySpec(10_000.0, 16, "linear", factor=8.0)
    np.testing.assert_allclose(rotary_tables(plain, 4)[0][3], rotary_tables(scaled, 25)[0][24], rtol=1e-6)


@pytest.mark.parametrize("pair", range(64))
def test_llama3_scaling_is_that_of_transformers(pair: int) -> None:
    spec = RotarySpec(500_000.0, 128, "llama3", 8.0, 1.0, 4.0, 8192)
    frequency = 500_000.0 ** -(pair / 64)
    wavelength = 2 * math.pi / frequency
    if wavelength > 8192 / 1.0:
        expected = frequency / 8
    elif wavelength < 8192 / 4.0:
        expected = frequency
    else:  # as _compute_llama3_parameters blends them
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        expected = (1 - smooth) * frequency / 8 + smooth * frequency
    assert rotary_frequencies(spec)[pair] == pytest.approx(expected, rel=1e-12)


INTERLEAVED = PositionSpec("mrope", RotarySpec(5e6, 16), (4, 2, 2), "interleaved")
SECTIONED = replace(INTERLEAVED, order="sectioned")


@pytest.mark.parametrize(("spec", "axes"), [(INTERLEAVED, "thwthwtt"), (SECTIONED, "tttthhww")])
def test_an_image_turns_pairs_by_its_time_rows_and_columns(spec: PositionSpec, axes: str) -> None:
    cos, sin = position_tables(spec, 12, image_at=3, image_grid=(2, 3))
    row = 3 + 5  # the image's last: in its second row and third column
    place = {"t": 3, "h": 3 + 1, "w": 3 + 2}
    angles = [place[axis] * frequency for axis, frequency in zip(axes, rotary_frequencies(spec.rotary), strict=True)]
    np.testing.assert_allclose(cos[row], np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin[row], np.sin(angles), rtol=1e-6)


def test_text_behind_an_image_goes_on_behind_its_longer_side() -> None:
    counted, placed = rotary_tables(SECTIONED.rotary, 20), position_tables(SECTIONED, 20, image_at=3, image_grid=(2, 5))
    for plain, with_image in zip(counted, placed, strict=True):
        np.testing.assert_array_equal(with_image[:3], plain[:3])
        np.testing.assert_array_equal(with_image[13:], plain[3 + 5 : 3 + 5 + 7])


def test_without_an_image_mrope_counts() -> None:
    for plain, placed in zip(rotary_tables(SECTIONED.rotary, 9), position_tables(SECTIONED, 9), strict=True):
        np.testing.assert_array_equal(placed, plain)
