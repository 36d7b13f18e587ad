"""Blockwise symmetric INT4 by rounding to nearest; knows matrices of numbers, not what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError

SMALLEST_BLOCK = 16  # MatMulNBits and TensorRT accept no smaller one

_ZERO_POINT = 8  # code 8 stands for 0.0, so codes 0..15 stand for -8..7 steps
_LARGEST_STEP = 7
_SLAB_ELEMENTS = 1 << 22  # rows are quantized in slabs of 16 MiB of float32, so that memory stays bounded


@dataclass(frozen=True)
class Int4Matrix:
    """A matrix (N, K) in blocks along K: ``value = (code - 8) * scale``.

    ``packed`` holds two codes a byte, the low nibble first: uint8 (N, blocks, block_size / 2), which is the layout
    of ONNX Runtime's MatMulNBits. ``scales`` is float16 (N, blocks). The last block is padded with zeros.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float16]
    columns: int  # K
    block_size: int

    @property
    def rows(self) -> int:
        """N."""
        return int(self.packed.shape[0])

    @property
    def steps(self) -> NDArray[np.int8]:
        """The codes as steps from -8 to 7, one a byte: (N, K), without the padding."""
        codes = np.stack([self.packed & 0x0F, self.packed >> 4], axis=-1).reshape(self.rows, -1)  # (N, K)
        return codes[:, : self.columns].astype(np.int8) - np.int8(_ZERO_POINT)


def block_size_for(columns: int, largest: int) -> int:
    """The largest power of two up to ``largest`` that divides ``columns``; or 16, where the last block is padded."""
    return max(min(columns & -columns, largest), SMALLEST_BLOCK)


def quantized_bytes(rows: int, columns: int, block_size: int) -> int:
    """Bytes of the packed codes and float16 scales of a (rows, columns) matrix."""
    return rows * -(-columns // block_size) * (block_size // 2 + 2)


def quantize_rtn(weight: NDArray[np.floating], block_size: int) -> Int4Matrix:
    """Round each block of ``weight`` (N, K) to 15 steps between minus and plus its largest magnitude.

    No value moves by more than half a step. Zeros stay zeros.

    Raises:
        CheckpointError: a value is NaN, infinite, or too large for a float16 scale.
    """
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    packed = np.empty((rows, blocks, block_size // 2), np.uint8)
    scales = np.empty((rows, blocks), np.float16)
    for part in _slabs(rows, blocks * block_size):
        slab = np.zeros((part.stop - part.start, blocks * block_size), np.float32)
        slab[:, :columns] = weight[part]
        slab = slab.reshape(-1, blocks, block_size)
        scales[part] = _scales(np.abs(slab).max(axis=2))
        slab /= scales[part].astype(np.float32)[:, :, None]
        np.clip(np.rint(slab, out=slab), -_ZERO_POINT, _LARGEST_STEP, out=slab)
        codes = (slab + _ZERO_POINT).astype(np.uint8)
        packed[part] = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    return Int4Matrix(packed, scales, columns, block_size)


def dequantize(matrix: Int4Matrix) -> NDArray[np.float32]:
    """The float32 (N, K) values that ``matrix`` stands for."""
    scales = np.repeat(matrix.scales.astype(np.float32), matrix.block_size, axis=1)[:, : matrix.columns]
    return matrix.steps * scales


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float16]:
    """Float16 scales at which ``largest`` is at most 7.5 steps; 1 for blocks of zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (largest / _LARGEST_STEP).astype(np.float16)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"values up to {largest.max()} have no float16 scale; expected finite weights")
    # Below 6e-5 float16 is subnormal and may round a scale down by half of it: take the next one up.
    too_small = largest > scales.astype(np.float32) * (_LARGEST_STEP + 0.5)
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    return np.where(largest == 0, np.float16(1), scales).astype(np.float16)


def _slabs(rows: int, columns: int) -> Iterator[slice]:
    step = max(_SLAB_ELEMENTS // columns, 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
