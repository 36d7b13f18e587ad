"""NF4 with double quantization, the 4 bits that people know, as a yardstick; knows one matrix at a time.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", appendix E for the 16 values. As in bitsandbytes,
the scales of 64 weights are themselves rounded, 256 at a time, to the 256 values of its dynamic 8-bit type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.quantize.formats.int4 import row_slabs

Float32 = NDArray[np.float32]

NF4_BLOCK = 64
SCALES_A_RANGE = 256

# fmt: off
NF4_VALUES = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)
# fmt: on


@dataclass(frozen=True)
class Nf4Matrix:
    """A matrix in rows of 64 values, whatever its shape: ``value = NF4_VALUES[code] * scale``.

    ``packed`` uint8 (values / 2) has the first code in the high nibble. A scale is
    ``dynamic_8bit()[code] * its block's largest + mean``.
    """

    packed: NDArray[np.uint8]
    scale_codes: NDArray[np.uint8]  # (blocks,)
    scale_ranges: Float32  # one for 256 scales
    scale_mean: np.float32
    shape: tuple[int, int]

    @property
    def rows(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is stored: 4.127 bits a value."""
        return self.packed.nbytes + self.scale_codes.nbytes + self.scale_ranges.nbytes + 4

    @property
    def scales(self) -> Float32:
        """The scale of every 64 values, as it is after its own rounding: (blocks,)."""
        ranges = np.repeat(self.scale_ranges, SCALES_A_RANGE)[: len(self.scale_codes)]
        return dynamic_8bit()[self.scale_codes] * ranges + self.scale_mean


def nf4_bytes(rows: int, columns: int) -> int:
    """Bytes of a (rows, columns) matrix."""
    blocks = -(-rows * columns // NF4_BLOCK)
    return blocks * (NF4_BLOCK // 2 + 1) + -(-blocks // SCALES_A_RANGE) * 4 + 4


def quantize_nf4(weight: NDArray[np.floating]) -> Nf4Matrix:
    """Round ``weight`` (N, K) to the nearest NF4 value at the largest magnitude of each 64 values.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    flat = np.zeros(-(-weight.size // NF4_BLOCK) * NF4_BLOCK, np.float32)
    flat[: weight.size] = weight.reshape(-1)
    blocks = flat.reshape(-1, NF4_BLOCK)
    largest = np.abs(blocks).max(axis=1)
    if not np.isfinite(largest).all():
        raise CheckpointError("a matrix holds NaN or infinity; expected finite weights")
    codes = np.empty(blocks.shape, np.uint8)
    boundaries = (NF4_VALUES[1:] + NF4_VALUES[:-1]) / 2
    for part in row_slabs(*blocks.shape):
        scales = np.where(largest[part] > 0, largest[part], 1)[:, None]
        codes[part] = np.searchsorted(boundaries, blocks[part] / scales)
    packed = codes[:, 0::2] << np.uint8(4) | codes[:, 1::2]
    mean = largest.mean(dtype=np.float32)
    scale_codes, ranges = _quantize_scales(largest - mean)
    return Nf4Matrix(packed.reshape(-1), scale_codes, ranges, mean, (weight.shape[0], weight.shape[1]))


def dequantize_nf4(matrix: Nf4Matrix) -> Float32:
    """The float32 (N, K) values that ``matrix`` stands for."""
    codes = np.stack([matrix.packed >> 4, matrix.packed & 0x0F], axis=-1).reshape(-1, NF4_BLOCK)
    values = NF4_VALUES[codes] * matrix.scales[:, None]
    rows, columns = matrix.shape
    return values.reshape(-1)[: rows * columns].reshape(rows, columns)


def dynamic_8bit() -> Float32:
    """The 256 values of bitsandbytes' signed dynamic type, rising: seven decades, finer the larger (Dettmers 2021)."""
    positive = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1)
        positive += ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (exponent - 6)).tolist()
    values = np.array(positive)
    return np.sort(np.concatenate([values, -values[2:]])).astype(np.float32)


def _quantize_scales(scales: Float32) -> tuple[NDArray[np.uint8], Float32]:
    blocks = np.zeros((-(-len(scales) // SCALES_A_RANGE), SCALES_A_RANGE), np.float32)
    blocks.reshape(-1)[: len(scales)] = scales
    ranges = np.abs(blocks).max(axis=1)
    values = dynamic_8bit()
    codes = np.searchsorted((values[1:] + values[:-1]) / 2, blocks / np.where(ranges > 0, ranges, 1)[:, None])
    return codes.astype(np.uint8).reshape(-1)[: len(scales)], ranges
