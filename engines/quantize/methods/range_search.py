"""Scales of INT4 blocks searched for the least error, of the weights or of what they do; knows one block at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.quantize.formats.int4 import Int4Matrix, int4_by_slabs
from engines.quantize.methods.rtn import rtn_scales, steps_at

Float32 = NDArray[np.float32]

# Clipping the largest magnitude by more than half never paid on the matrices tried; 11 ratios find what 25 do.
_RATIOS = np.linspace(1.0, 0.5, 11, dtype=np.float32)
_SMALLEST_SCALE = np.float16(6e-8)


def quantize_fitted(
    weight: NDArray[np.floating], block_size: int, block_grams: Float32 | None = None, bits: int = 4
) -> Int4Matrix:
    """Round ``weight`` (N, K) at the scales that lose least, in no block more than rounding to nearest does.

    ``block_grams`` float32 (blocks, block_size, block_size) are the mean products of the inputs that meet each block:
    the loss is then the squared error of the block's output, and otherwise that of its weights. Each ratio of clipping
    gives codes, and codes have one best scale (least squares), under which they are judged.

    Raises:
        CheckpointError: a value is NaN, infinite, or too large for a float16 scale.
    """

    def rounded(slab: Float32) -> tuple[Float32, NDArray[np.float16]]:
        by_block = np.ascontiguousarray(slab.transpose(1, 0, 2))  # (blocks, n, block_size)
        steps, scales = _fit(by_block, block_grams, bits)
        return steps.transpose(1, 0, 2), scales.T

    return int4_by_slabs(weight, block_size, rounded)


def _fit(values: Float32, grams: Float32 | None, bits: int) -> tuple[Float32, NDArray[np.float16]]:
    """Steps and scales of ``values`` (blocks, n, block_size); rounding to nearest where nothing loses less."""
    plain = rtn_scales(values, bits)
    best_scales, best_steps = plain, steps_at(values, plain, bits)
    best_losses = _loss(values, best_steps, best_scales, grams)
    for ratio in _RATIOS:
        clipped = np.maximum((plain * ratio).astype(np.float16), _SMALLEST_SCALE)
        steps = steps_at(values, clipped, bits)
        weighted = _product(steps, grams)
        overlap, power = (weighted * values).sum(axis=-1), (weighted * steps).sum(axis=-1)
        fits = (overlap > 0) & (power > 0)
        refined = np.divide(overlap, power, out=clipped.astype(np.float32), where=fits)
        refined = np.clip(refined, _SMALLEST_SCALE, 2 * plain.astype(np.float32)).astype(np.float16)
        losses = _loss(values, steps, refined, grams)
        better = losses < best_losses
        best_losses = np.where(better, losses, best_losses)
        best_scales = np.where(better, refined, best_scales)
        best_steps = np.where(better[..., None], steps, best_steps)
    return best_steps, best_scales


def _loss(values: Float32, steps: Float32, scales: NDArray[np.float16], grams: Float32 | None) -> Float32:
    errors = values - steps * scales.astype(np.float32)[..., None]
    losses: Float32 = (_product(errors, grams) * errors).sum(axis=-1)
    return losses


def _product(values: Float32, grams: Float32 | None) -> Float32:
    return values if grams is None else values @ grams
