"""Rotary tables: cosines and sines of each row's position, which are memory of a sequence and inputs of its decoder."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import RotarySpec

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


def table_bytes(rotary: RotarySpec, rows: int) -> int:
    """Bytes of both tables."""
    return 4 * rows * rotary.dim
