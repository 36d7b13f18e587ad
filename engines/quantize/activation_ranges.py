"""The largest magnitude to keep when a tensor becomes INT8, from its histogram; knows no tensor's name.

Larger magnitudes are clipped: a narrow range costs outliers, a wide one costs resolution for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engines.quantize.histogram import BINS, Histogram

LEVELS = 127  # INT8 is used symmetrically: -127 to 127 times the scale

Float64 = NDArray[np.float64]
RangeMethod = Callable[[Histogram], float]

_PUBLISHED_BINS = 2048  # from zero to the largest magnitude, as the entropy method counts them
_PUBLISHED_LEVELS = 128  # magnitudes that it tells apart, and the first number of bins it tries
_COUNT_FOR_NONE = 1e-4  # what Q has where only outliers fill a level
_NOISE = 1e-12  # divergences that are nearer than this are equal, and differ by how their sums were rounded
_MOST_CLIPPED = 0.01  # share of magnitudes that the entropy method may clip
_PERCENTILE = 99.99
_RANGE_OF_ZEROS = 1.0  # a tensor that is always zero is exact at any range


def entropy_range(histogram: Histogram) -> float:
    """The range whose 128 levels lose least information, as the Kullback-Leibler divergence counts it.

    Method: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, which is what ``IInt8EntropyCalibrator2`` does. For
    every number ``i`` from 128 on of 2048 bins, P is the first ``i`` bins with all that lies beyond added to the last
    of them; Q is the first ``i`` bins merged into 128 levels, each level's count spread evenly over those of its bins
    that P fills. The ``i`` with the smallest KL(P, Q) wins; of equal ones the largest, which clips less.

    Three things are settled that the slides leave open. The first bin counts no more than its neighbour, which it is
    set to in NVIDIA's own toolkits (pytorch-quantization, ModelOpt): there may be much next to zero, and it has
    nothing to lose. Where only outliers fill a level, Q has a small count there and not 0, as in MXNet and ONNX
    Runtime: else one outlier beyond a gap makes every narrower range infinitely bad. And no candidate clips more than
    1 %: where all magnitudes are far from zero, a range that holds next to none of them leaves a spike in P and the
    same spike in Q, and would win with a divergence of nothing.
    """
    if not histogram.used:
        return _RANGE_OF_ZEROS
    counts = _published_bins(histogram)
    fewest = int(np.searchsorted(np.cumsum(counts), counts.sum() * (1 - _MOST_CLIPPED))) + 1  # bins that hold 99 %
    counts[0] = min(counts[0], max(counts[1], 1))
    ends = np.arange(max(_PUBLISHED_LEVELS, fewest), len(counts) + 1)  # (candidates,)
    divergence = _divergences(counts, ends)
    best = np.flatnonzero(divergence <= divergence.min() + _NOISE)[-1]
    return float(ends[best] / _PUBLISHED_BINS * histogram.largest)


def _published_bins(histogram: Histogram) -> Float64:
    """Counts in bins that end at the largest magnitude: (2048,). The histogram's own end at a power of two."""
    edges = np.minimum(np.arange(histogram.used + 1), histogram.largest / histogram.width)
    ends = np.linspace(0, edges[-1], _PUBLISHED_BINS + 1)
    counts: Float64 = np.diff(np.interp(ends, edges, _totals(histogram.counts[: histogram.used])))
    return counts


def _divergences(counts: Float64, ends: NDArray[np.int64]) -> Float64:
    """KL(P, Q) of every candidate at once: its sums depend on ``i`` only through running totals."""
    logs = np.log(counts, out=np.zeros_like(counts), where=counts > 0)
    sums, filled, entropies = _totals(counts), _totals(counts > 0), _totals(counts * logs)
    total, inside = sums[-1], sums[ends]
    outliers = total - inside
    last = counts[ends - 1] + outliers  # of P

    # Sum of P log P, up to the common factor: all bins as they are, but for the last.
    own = entropies[ends - 1] + last * np.log(last, out=np.zeros_like(last), where=last > 0)

    edges = ends[:, None] * np.arange(_PUBLISHED_LEVELS + 1) // _PUBLISHED_LEVELS  # (candidates, 129)
    level_sums, level_filled = np.diff(sums[edges]), np.diff(filled[edges])  # (candidates, 128)
    level_filled[:, -1] += (counts[ends - 1] == 0) & (outliers > 0)
    means = np.divide(level_sums, level_filled, out=np.ones_like(level_sums), where=level_filled > 0)
    log_means = np.log(np.maximum(means, _COUNT_FOR_NONE))
    crossed = (level_sums * log_means).sum(axis=1) + outliers * log_means[:, -1]

    # P sums up to the total, Q to what lies inside.
    divergence: Float64 = (own - crossed) / total - np.log(total) + np.log(inside)
    return divergence


def percentile_range(histogram: Histogram, percentile: float = _PERCENTILE) -> float:
    """The range that holds so many of a hundred magnitudes that are not zero."""
    if not histogram.used:
        return _RANGE_OF_ZEROS
    sums = np.cumsum(histogram.counts)
    bins = int(np.searchsorted(sums, sums[-1] * (percentile / 100))) + 1
    return _limited(bins * histogram.width, histogram)


def mse_range(histogram: Histogram) -> float:
    """The range with the smallest mean squared error, of rounding inside it and of clipping beyond."""
    if not histogram.used:
        return _RANGE_OF_ZEROS
    counts = histogram.counts[: histogram.used].astype(np.float64)
    centres = np.arange(len(counts)) + 0.5
    number, first, second = _totals(counts), _totals(counts * centres), _totals(counts * centres**2)
    ends = np.arange(1, len(counts) + 1)  # in bins, as everything here
    rounding = number[ends] * (ends / LEVELS) ** 2 / 12  # a step's error is spread evenly over half a step
    n, x, xx = (totals[-1] - totals[ends] for totals in (number, first, second))
    clipping = xx - 2 * ends * x + ends**2 * n
    return _limited((int(np.argmin(rounding + clipping)) + 1) * histogram.width, histogram)


def max_range(histogram: Histogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest or _RANGE_OF_ZEROS


RANGE_METHODS: Mapping[str, RangeMethod] = {
    "entropy": entropy_range,
    "percentile": percentile_range,
    "mse": mse_range,
    "max": max_range,
}


def twin_ranges(below: Histogram, above: Histogram, find_range: RangeMethod) -> tuple[tuple[float, float], float]:
    """The ranges of a tensor's two sides, and the share that they leave of the squared error of one range for both.

    Where that is not less than all of it, the tensor has one peak, and both sides get that one range.
    """
    whole = below.merge(above)
    one, two = find_range(whole), (find_range(below), find_range(above))
    error_of_one = squared_error(whole, one)
    error_of_two = sum(squared_error(*side) for side in zip((below, above), two, strict=True))
    if not error_of_two < error_of_one:
        return (one, one), 1.0
    return two, error_of_two / error_of_one


def squared_error(histogram: Histogram, largest: float) -> float:
    """What rounding inside a range and clipping beyond it cost, summed over all values; each is its bin's centre."""
    scale = scale_of_range(largest)
    centres = (np.arange(BINS) + 0.5) * histogram.width
    rounded = np.minimum(np.rint(centres / scale), LEVELS) * scale
    return float(histogram.counts @ (centres - rounded) ** 2)


def scale_of_range(largest: float) -> float:
    """The INT8 scale that keeps magnitudes up to ``largest``, as the float32 that it is stored as."""
    return float(np.maximum(np.float32(largest / LEVELS), np.finfo(np.float32).tiny))


def _totals(values: NDArray[np.generic]) -> Float64:
    """Running totals, 0 first: (n + 1,)."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _limited(largest: float, histogram: Histogram) -> float:
    """A bin's end may lie beyond the largest magnitude in it; no range needs to."""
    return min(float(largest), histogram.largest)
