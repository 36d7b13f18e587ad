"""The format of blockwise INT4 matrices: packed codes, scales, zero points; knows no way of choosing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_BLOCK = 16  # MatMulNBits and TensorRT accept no smaller one

_ZERO_POINT = 8  # code 8 stands for 0.0, so codes 0..15 stand for -8..7 steps
_SLAB_ELEMENTS = 1 << 20  # 4 MiB of float32: temporaries stay in the cache, whatever the matrix's size


@dataclass(frozen=True)
class Int4Matrix:
    """A matrix (N, K) in blocks along K: ``value = (code - zero) * scale``.

    ``packed`` holds two codes a byte, the low nibble first: uint8 (N, blocks, block_size / 2), which is the layout
    of ONNX Runtime's MatMulNBits. ``scales`` is float16 (N, blocks), all above zero. The last block is padded with
    zeros. ``zeros`` is uint8 (N, blocks), 0 to 15; None where all are 8, as in every matrix that is rounded here.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float16]
    columns: int  # K
    block_size: int
    zeros: NDArray[np.uint8] | None = None

    @property
    def rows(self) -> int:
        """N."""
        return int(self.packed.shape[0])

    @property
    def steps(self) -> NDArray[np.int8]:
        """The codes as steps from -8 to 7, one a byte: (N, K), without the padding, whatever the zero points."""
        codes = np.stack([self.packed & 0x0F, self.packed >> 4], axis=-1).reshape(self.rows, -1)  # (N, K)
        steps: NDArray[np.int8] = codes[:, : self.columns].astype(np.int8)
        steps -= np.int8(_ZERO_POINT)
        return steps

    @property
    def offsets(self) -> NDArray[np.float32]:
        """What each weight of a block has beside its steps' share, ``(8 - zero) * scale``: float32 (N, blocks), exact.

        ``x @ values.T`` is ``x @ (steps * scales).T`` and, of each block, the sum of its inputs times this.
        """
        zeros = np.full(self.scales.shape, _ZERO_POINT, np.uint8) if self.zeros is None else self.zeros
        offsets: NDArray[np.float32] = (np.float32(_ZERO_POINT) - zeros) * self.scales.astype(np.float32)
        return offsets

    @property
    def packed_zeros(self) -> NDArray[np.uint8]:
        """Zero points as MatMulNBits reads them: (N, blocks / 2), the low nibble first, each row in whole bytes."""
        assert self.zeros is not None, "there are none to be told"
        even = np.pad(self.zeros, [(0, 0), (0, self.zeros.shape[1] % 2)])
        packed: NDArray[np.uint8] = even[:, 0::2] | even[:, 1::2] << np.uint8(4)
        return packed

    def some_rows(self, rows: slice) -> Int4Matrix:
        """Some of the rows."""
        zeros = None if self.zeros is None else self.zeros[rows]
        return replace(self, packed=self.packed[rows], scales=self.scales[rows], zeros=zeros)


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

    def by_column(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat(numbers, matrix.block_size, axis=1)[:, : matrix.columns]

    steps: NDArray[np.int8] | NDArray[np.float32] = matrix.steps
    if matrix.zeros is not None:
        steps = steps + by_column(np.float32(_ZERO_POINT) - matrix.zeros)
    return steps * by_column(matrix.scales.astype(np.float32))


def int4_from_codes(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], zeros: NDArray[np.uint8] | None, block_size: int
) -> Int4Matrix:
    """The matrix of ``codes`` (N, K), 0 to 15, at ``scales`` and ``zeros`` (N, K / block_size)."""
    rows, columns = codes.shape
    blocks = codes.reshape(rows, columns // block_size, block_size)
    packed: NDArray[np.uint8] = blocks[:, :, 0::2] | blocks[:, :, 1::2] << np.uint8(4)
    return Int4Matrix(packed, scales, columns, block_size, zeros)


def stacked(matrices: Sequence[Int4Matrix]) -> Int4Matrix:
    """Matrices of as many columns, one under the other, in the smallest blocks of any: the same values."""
    block_size = min(matrix.block_size for matrix in matrices)

    def by_block(numbers: NDArray[Any], matrix: Int4Matrix) -> NDArray[Any]:
        return np.repeat(numbers, matrix.block_size // block_size, axis=1)

    packed = [matrix.packed.reshape(matrix.rows, -1, block_size // 2) for matrix in matrices]
    scales = [by_block(matrix.scales, matrix) for matrix in matrices]
    zeros = None
    if any(matrix.zeros is not None for matrix in matrices):
        own = [np.full_like(m.scales, _ZERO_POINT, np.uint8) if m.zeros is None else m.zeros for m in matrices]
        zeros = np.concatenate([by_block(each, matrix) for each, matrix in zip(own, matrices, strict=True)])
    return Int4Matrix(np.concatenate(packed), np.concatenate(scales), matrices[0].columns, block_size, zeros)


def block_size_for(columns: int, largest: int) -> int:
    """The largest power of two up to ``largest`` that divides ``columns``; or 16, where the last block is padded."""
    return max(min(columns & -columns, largest), SMALLEST_BLOCK)


def quantized_bytes(rows: int, columns: int, block_size: int, *, has_zeros: bool = False) -> int:
    """Bytes of the packed codes, float16 scales and 4-bit zero points of a (rows, columns) matrix."""
    blocks = -(-columns // block_size)
    return rows * (blocks * (block_size // 2 + 2) + (-(-blocks // 2) if has_zeros else 0))


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
