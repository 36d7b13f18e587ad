"""The format of blockwise symmetric INT4 matrices: packed codes and scales; knows no way of choosing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST_BLOCK = 16  # MatMulNBits and TensorRT accept no smaller one

_ZERO_POINT = 8  # code 8 stands for 0.0, so codes 0..15 stand for -8..7 steps
_SLAB_ELEMENTS = 1 << 20  # 4 MiB of float32: temporaries stay in the cache, whatever the matrix's size


@dataclass(frozen=True)
class Int4Matrix:
    """A matrix (N, K) in blocks along K: ``value = (code - 8) * scale``.

    ``packed`` holds two codes a byte, the low nibble first: uint8 (N, blocks, block_size / 2), which is the layout
    of ONNX Runtime's MatMulNBits. ``scales`` is float16 (N, blocks), all above zero. The last block is padded with
    zeros.
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
        steps: NDArray[np.int8] = codes[:, : self.columns].astype(np.int8)
        steps -= np.int8(_ZERO_POINT)
        return steps


def step_range(bits: int) -> tuple[int, int]:
    """The lowest and highest step of ``bits`` bits; fewer than 4 use some of the codes, to be measured, not stored."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def int4_from_steps(steps: NDArray[np.int8], scales: NDArray[np.float16], columns: int) -> Int4Matrix:
    """The matrix of ``steps`` (N, blocks, block_size), -8 to 7, at ``scales`` (N, blocks)."""
    codes = (steps + np.int8(_ZERO_POINT)).view(np.uint8)
    packed: NDArray[np.uint8] = codes[:, :, 0::2] | codes[:, :, 1::2] << np.uint8(4)
    return Int4Matrix(packed, scales, columns, steps.shape[2])


def dequantize(matrix: Int4Matrix) -> NDArray[np.float32]:
    """The float32 (N, K) values that ``matrix`` stands for."""
    scales = np.repeat(matrix.scales.astype(np.float32), matrix.block_size, axis=1)[:, : matrix.columns]
    return matrix.steps * scales


def block_size_for(columns: int, largest: int) -> int:
    """The largest power of two up to ``largest`` that divides ``columns``; or 16, where the last block is padded."""
    return max(min(columns & -columns, largest), SMALLEST_BLOCK)


def quantized_bytes(rows: int, columns: int, block_size: int) -> int:
    """Bytes of the packed codes and float16 scales of a (rows, columns) matrix."""
    return rows * -(-columns // block_size) * (block_size // 2 + 2)


def int4_by_slabs(
    weight: NDArray[np.floating],
    block_size: int,
    rounded: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float16]]],
) -> Int4Matrix:
    """``weight`` (N, K), a slab of rows at a time: ``rounded`` turns (n, blocks, block_size) into steps and scales."""
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    steps = np.empty((rows, blocks, block_size), np.int8)
    scales = np.empty((rows, blocks), np.float16)
    for part in row_slabs(rows, blocks * block_size):
        steps[part], scales[part] = rounded(in_blocks(weight[part], block_size))
    return int4_from_steps(steps, scales, columns)


def in_blocks(weight: NDArray[np.floating], block_size: int) -> NDArray[np.float32]:
    """A float32 copy of ``weight`` (N, K) as (N, blocks, block_size), padded with zeros."""
    rows, columns = weight.shape
    blocks = np.zeros((rows, -(-columns // block_size) * block_size), np.float32)
    blocks[:, :columns] = weight
    return blocks.reshape(rows, -1, block_size)


def row_slabs(rows: int, columns: int) -> Iterator[slice]:
    """Slices that together cover the rows of a matrix, each small enough for a copy to stay in the cache."""
    step = max(_SLAB_ELEMENTS // columns, 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
