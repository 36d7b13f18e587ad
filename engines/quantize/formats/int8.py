"""Symmetric INT8 with one scale a row, by rounding to nearest; knows matrices of numbers, not what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError

_LARGEST_STEP = 127  # -128 is left unused, so that every code has its negative, as TensorRT and ONNX Runtime expect
_SLAB_ELEMENTS = 1 << 22  # rows are quantized in slabs of 16 MiB of float32, so that memory stays bounded


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix (N, K): ``value = code * scale`` of its row. A row is one output channel of ``y = x @ weight.T``."""

    codes: NDArray[np.int8]  # (N, K), -127 to 127
    scales: NDArray[np.float16]  # (N,)

    @property
    def rows(self) -> int:
        """N."""
        return int(self.codes.shape[0])

    @property
    def columns(self) -> int:
        """K."""
        return int(self.codes.shape[1])


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of the codes and float16 scales of a (rows, columns) matrix."""
    return rows * (columns + 2)


def quantize_int8(weight: NDArray[np.floating]) -> Int8Matrix:
    """Round each row of ``weight`` (N, K) to 255 steps between minus and plus its largest magnitude.

    No value moves by more than half a step. Zeros stay zeros.

    Raises:
        CheckpointError: a value is NaN, infinite, or too large for a float16 scale.
    """
    rows, columns = weight.shape
    codes = np.empty((rows, columns), np.int8)
    scales = np.empty(rows, np.float16)
    step = max(_SLAB_ELEMENTS // columns, 1)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        slab = weight[part].astype(np.float32)
        scales[part] = _scales(np.abs(slab).max(axis=1))
        slab /= scales[part].astype(np.float32)[:, None]
        codes[part] = np.clip(np.rint(slab, out=slab), -_LARGEST_STEP, _LARGEST_STEP, out=slab)
    return Int8Matrix(codes, scales)


def dequantize_int8(matrix: Int8Matrix) -> NDArray[np.float32]:
    """The float32 (N, K) values that ``matrix`` stands for."""
    return matrix.codes * matrix.scales.astype(np.float32)[:, None]


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float16]:
    """Float16 scales at which ``largest`` is at most 127.5 steps; 1 for rows of zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (largest / _LARGEST_STEP).astype(np.float16)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"values up to {largest.max()} have no float16 scale; expected finite weights")
    # Float16 rounds a scale down by up to 1 in 2048, and by more where it is subnormal: take the next one up there.
    too_small = largest > scales.astype(np.float32) * (_LARGEST_STEP + 0.5)
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    return np.where(largest == 0, np.float16(1), scales).astype(np.float16)
