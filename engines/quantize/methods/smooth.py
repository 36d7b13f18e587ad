"""Smoothing for INT8: outlier channels of activations are moved into the weights; knows ranges and rounding, no graph.

Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models". How much
is moved is searched for each matrix, by what its outputs lose with both sides rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError
from engines.quantize.activations import Activations
from engines.quantize.methods.fold import Producers, share_by_producer
from engines.quantize.methods.row_selection import check_widths

Float32 = NDArray[np.float32]

_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # 0.5 suited most models of the paper, 0.75 and more some
_SAMPLED_ROWS = 256  # of a matrix, evenly spread, that the strength is searched with
_LARGEST_STEP = 127
_SMALLEST_MAGNITUDE = 1e-5  # of the largest: neither dead channels nor weights of zero ask for infinite scales


@dataclass(frozen=True)
class Smoothing:
    """``weight * input_scales`` meets inputs that whatever comes before divides by ``input_scales``."""

    input_scales: Float32  # (K,), all ones where smoothing doesn't help
    strength: float  # the paper's alpha: how much of the range moves into the weights; 0 for none
    output_error: float  # squared error of the outputs over the outputs, both sides in INT8
    plain_output_error: float  # without smoothing


def choose_smoothing(
    weight: NDArray[np.floating],
    activations: Activations,
    producers: Producers | None = None,
    range_of: Callable[[Float32], float] = lambda values: float(np.abs(values).max()),
) -> Smoothing:
    """The strength at which ``weight`` (N, K) and the rows that ``activations`` hold out, both in INT8, lose least.

    Weights have one scale a row and inputs one in all, as the engines have it. Matrices with the same input are given
    stacked; ``producers`` are those of ``fold.py``. ``range_of`` inputs, beyond which they are clipped, is what the
    engine will have. What doesn't help is not done.

    Raises:
        CalibrationError: the activations are of another width, or what they hold out is not finite.
    """
    check_widths(weight, activations)
    rows = activations.held_out
    if rows is None or not np.isfinite(rows).all():
        raise CalibrationError("no rows are held out, or they hold NaN or infinity; expected some that are finite")
    magnitudes = share_by_producer(np.maximum(activations.largest_magnitudes, np.abs(rows).max(axis=0)), producers)
    weights = share_by_producer(np.abs(weight).max(axis=0).astype(np.float32), producers)
    sampled_error = _error_by_scales(weight[:: -(-len(weight) // _SAMPLED_ROWS)], rows, range_of)
    whole_error = _error_by_scales(weight, rows, range_of)

    strength = min(_STRENGTHS, key=lambda s: sampled_error(smoothing_scales(magnitudes, weights, s)))
    ones, scales = np.ones(weight.shape[1], np.float32), smoothing_scales(magnitudes, weights, strength)
    plain, smoothed = whole_error(ones), whole_error(scales)
    return Smoothing(scales, strength, smoothed, plain) if smoothed < plain else Smoothing(ones, 0.0, plain, plain)


def smoothing_scales(magnitudes: Float32, weights: Float32, strength: float) -> Float32:
    """Equation 4 of the paper: ``max|x| ** strength / max|w| ** (1 - strength)`` for each channel: float32 (K,)."""
    if not magnitudes.any() or not weights.any():
        return np.ones(len(magnitudes), np.float32)
    x, w = (np.maximum(m, m.max() * _SMALLEST_MAGNITUDE).astype(np.float64) for m in (magnitudes, weights))
    scales = x**strength / w ** (1 - strength)
    return np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)


def _error_by_scales(
    weight: NDArray[np.floating], inputs: Float32, range_of: Callable[[Float32], float]
) -> Callable[[Float32], float]:
    """What the outputs of a matrix lose, as a function of the scales of its inputs."""
    matrix = weight.astype(np.float32)
    expected = inputs @ matrix.T
    norm = float(np.square(expected).sum(dtype=np.float64)) or 1.0

    def error(scales: Float32) -> float:
        x, w = inputs / scales, matrix * scales
        largest = np.abs(w).max(axis=1, keepdims=True)
        found = _rounded(x, np.float32(range_of(x))) @ _rounded(w, np.where(largest > 0, largest, 1)).T
        return float(np.square(found - expected).sum(dtype=np.float64)) / norm

    return error


def _rounded(values: Float32, ranges: Float32 | np.float32) -> Float32:
    steps = np.rint(values / (ranges / _LARGEST_STEP))
    return np.asarray(np.clip(steps, -_LARGEST_STEP, _LARGEST_STEP) * (ranges / _LARGEST_STEP), np.float32)
