"""Rotary tables: cosines and sines of each row's position, which are memory of a sequence and inputs of its decoder."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import PositionSpec, RotarySpec

Float32 = NDArray[np.float32]

ROTARY_INPUTS = ("rotary_cos", "rotary_sin")  # of a decoder group, f32 (rows, dim / 2)


def rotary_frequencies(rotary: RotarySpec) -> NDArray[np.float64]:
    """Radians by which each pair of numbers of a head turns from one position to the next: (dim / 2,)."""
    frequencies: NDArray[np.float64] = rotary.theta ** -(np.arange(0, rotary.dim, 2) / rotary.dim)
    if rotary.scaling == "linear":
        return frequencies / rotary.factor
    if rotary.scaling == "llama3":
        # Dubey et al. 2024, "The Llama 3 Herd of Models": slow turns are stretched, quick ones stay, between is
        # blended.
        turns = rotary.original_max_positions * frequencies / (2 * math.pi)
        span = rotary.high_freq_factor - rotary.low_freq_factor
        kept = np.clip((turns - rotary.low_freq_factor) / span, 0.0, 1.0)
        return frequencies * (kept + (1 - kept) / rotary.factor)
    return frequencies


def rotary_tables(rotary: RotarySpec, rows: int) -> tuple[Float32, Float32]:
    """Cosines and sines of positions 0 to ``rows`` - 1: f32 (rows, dim / 2) each."""
    angles = np.outer(np.arange(rows), rotary_frequencies(rotary))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def position_tables(
    positions: PositionSpec, rows: int, image_at: int = 0, image_grid: tuple[int, int] | None = None
) -> tuple[Float32, Float32]:
    """Cosines and sines of the rows of a sequence whose image, of a grid (rows, columns), begins at ``image_at``.

    Text counts. By mrope, an image that begins at position s has rows and columns counted from s, and all of it the
    time s; what follows goes on behind the largest of them.
    """
    if positions.kind == "sequential" or image_grid is None:
        return rotary_tables(positions.rotary, rows)
    places = np.empty((rows, 3))
    places[:image_at] = np.arange(image_at)[:, None]
    height, width = image_grid
    image = np.zeros((height, width, 3))
    image[:, :, 1], image[:, :, 2] = np.arange(height)[:, None], np.arange(width)
    behind = image_at + height * width
    places[image_at:behind] = image_at + image.reshape(-1, 3)[: max(rows - image_at, 0)]
    places[behind:] = (image_at + max(image_grid) + np.arange(max(rows - behind, 0)))[:, None]
    angles = places[:, _axes(positions)] * rotary_frequencies(positions.rotary)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _axes(positions: PositionSpec) -> NDArray[np.intp]:
    """By which of time, height and width each pair of a head turns: (dim / 2,)."""
    if positions.order == "sectioned":
        return np.repeat(np.arange(3), positions.sections)
    axes = np.zeros(positions.rotary.dim // 2, np.intp)  # time, wherever the others are not
    for axis in (1, 2):
        axes[axis : 3 * positions.sections[axis] : 3] = axis
    return axes


def table_bytes(rotary: RotarySpec, rows: int) -> int:
    """Bytes of both tables."""
    return 4 * rows * rotary.dim
