"""AWQ: channels that carry large activations are scaled up before rounding, and clipped where that helps their outputs.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration". Here errors come from
the Gram matrix of all calibration rows, and the search of the scales sees the clipping that will follow it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import dequantize
from engines.quantize.methods.fold import Producers, divided, share_by_producer
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.methods.range_search import quantize_fitted
from engines.quantize.methods.row_selection import Calibrated, check_widths, choose_rows
from engines.quantize.methods.rtn import quantize_rtn

Float32 = NDArray[np.float32]

_ALPHAS = np.arange(21) / 20
_SAMPLED_ROWS = 128  # of a matrix, evenly spread: they find the alpha that all rows would, within the grid's own noise
_SMALLEST_MAGNITUDE = 1e-4  # of the largest: a dead channel must not be scaled down to nothing


@dataclass(frozen=True)
class Rescaled:
    """``calibrated.matrix`` stands for ``weight * input_scales``; whatever comes before is to be divided by them."""

    calibrated: Calibrated
    input_scales: Float32  # (K,), all ones where scaling doesn't help
    alpha: float


def quantize_awq(
    weight: NDArray[np.floating],
    block_size: int,
    activations: Activations,
    producers: Producers | None = None,
    bits: int = 4,
) -> Rescaled:
    """Scale and round ``weight`` (N, K) so that its outputs on the calibration data move least.

    Matrices with the same input (Q, K and V; gate and up) are given stacked, as they must share the scales. Channels
    with the same number in ``producers`` (K,) get the same scale, as they come from one row of the matrix before.
    Never worse than rounding to nearest, which is what remains where neither scales nor clipping help.

    Raises:
        CheckpointError: a weight is NaN, infinite, or too large for a float16 scale.
        CalibrationError: the activations are of another width.
    """
    check_widths(weight, activations)
    magnitudes = share_by_producer(activations.mean_magnitudes, producers)
    sample = weight[:: -(-len(weight) // _SAMPLED_ROWS)].astype(np.float32)
    block_grams = activations.block_grams(block_size)

    def sampled_error(alpha: float) -> float:
        scales = awq_scales(magnitudes, alpha)
        rounded = quantize_fitted(sample * scales, block_size, _divided_blocks(block_grams, scales), bits)
        return float(activations.output_errors(dequantize(rounded) / scales - sample).sum(dtype=np.float64))

    alpha = min(_ALPHAS, key=sampled_error)
    plain = quantize_clipped(weight, block_size, activations, bits)
    if alpha > 0:
        scales = awq_scales(magnitudes, alpha)
        scaled = quantize_clipped(weight * scales, block_size, divided(activations, scales), bits)
        if scaled.output_error < plain.output_error:
            return Rescaled(replace(scaled, rtn_output_error=plain.rtn_output_error), scales, float(alpha))
    return Rescaled(plain, np.ones(weight.shape[1], np.float32), 0.0)


def quantize_clipped(
    weight: NDArray[np.floating], block_size: int, activations: Activations, bits: int = 4
) -> Calibrated:
    """Round ``weight`` (N, K), its blocks clipped where their outputs gain; no row loses against rounding to nearest.

    Raises:
        CheckpointError: a weight is NaN, infinite, or too large for a float16 scale.
        CalibrationError: the activations are of another width.
    """
    check_widths(weight, activations)
    clipped = quantize_fitted(weight, block_size, activations.block_grams(block_size), bits)
    return choose_rows(weight, [quantize_rtn(weight, block_size, bits), clipped], activations)


def quantize_clipped_or_gptq(weight: NDArray[np.floating], block_size: int, activations: Activations) -> Calibrated:
    """Each row of ``weight`` (N, K) clipped or by GPTQ, whichever has the nearer outputs: for weights scaled by AWQ.

    Scales were chosen for what clipping makes of them, so that no row ends further off than it did there.

    Raises:
        CheckpointError: a weight is NaN, infinite, or too large for a float16 scale.
        CalibrationError: the activations are of another width, or have no usable Gram matrix.
    """
    ways = (quantize_clipped, quantize_gptq)
    candidates = [way(weight, block_size, activations).matrix for way in ways]
    return choose_rows(weight, [quantize_rtn(weight, block_size), *candidates], activations)


def awq_scales(magnitudes: Float32, alpha: float) -> Float32:
    """Equation 5 of the paper, ``magnitude ** alpha``, centred so that the largest times the smallest is one: (K,)."""
    floored = np.maximum(magnitudes, magnitudes.max() * _SMALLEST_MAGNITUDE)
    scales = floored**alpha
    return np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)


def _divided_blocks(block_grams: Float32, scales: Float32) -> Float32:
    blocks, size = block_grams.shape[:2]
    padded = np.ones(blocks * size, np.float32)
    padded[: len(scales)] = scales
    by_block = padded.reshape(blocks, size)
    return np.asarray(block_grams / by_block[:, :, None] / by_block[:, None, :], np.float32)
