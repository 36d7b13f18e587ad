"""Blockwise symmetric INT4 by rounding to nearest; knows matrices of numbers, not what they mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.quantize.formats.int4 import (
    SMALLEST_BLOCK,
    Int4Matrix,
    block_size_for,
    dequantize,
    int4_by_slabs,
    quantized_bytes,
    step_range,
)

__all__ = [
    "SMALLEST_BLOCK",
    "Int4Matrix",
    "block_size_for",
    "dequantize",
    "quantize_rtn",
    "quantized_bytes",
    "rtn_scales",
    "steps_at",
]


def quantize_rtn(weight: NDArray[np.floating], block_size: int, bits: int = 4) -> Int4Matrix:
    """Round each block of ``weight`` (N, K) to 15 steps between minus and plus its largest magnitude (of 4 bits).

    No value moves by more than half a step. Zeros stay zeros.

    Raises:
        CheckpointError: a value is NaN, infinite, or too large for a float16 scale.
    """

    def rounded(slab: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        scales = rtn_scales(slab, bits)
        return steps_at(slab, scales, bits), scales

    return int4_by_slabs(weight, block_size, rounded)


def rtn_scales(blocks: NDArray[np.float32], bits: int = 4) -> NDArray[np.float16]:
    """Float16 scales at which the largest magnitude along the last axis is 7 to 7.5 steps (of 4 bits); 1 for zeros.

    Raises:
        CheckpointError: a value is NaN, infinite, or too large for a float16 scale.
    """
    highest = step_range(bits)[1]
    largest: NDArray[np.float32] = np.maximum(blocks.max(axis=-1), -blocks.min(axis=-1))
    with np.errstate(over="ignore", invalid="ignore"):
        scales: NDArray[np.float16] = (largest / highest).astype(np.float16)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"values up to {largest.max()} have no float16 scale; expected finite weights")
    # Below 6e-5 float16 is subnormal and may round a scale down by half of it: take the next one up.
    too_small = largest > scales.astype(np.float32) * (highest + 0.5)
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    scales[largest == 0] = 1
    return scales


def steps_at(values: NDArray[np.float32], scales: NDArray[np.float16], bits: int = 4) -> NDArray[np.float32]:
    """The steps, -8 to 7 of 4 bits, nearest to ``values`` (..., block_size) at ``scales`` (...)."""
    steps: NDArray[np.float32] = values / scales.astype(np.float32)[..., None]
    np.clip(np.rint(steps, out=steps), *step_range(bits), out=steps)
    return steps
