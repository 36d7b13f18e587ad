"""How often a tensor's magnitudes occur, in bounded memory; knows no tensor's name and chooses no range.

A bin's width is a power of two, and only the largest magnitude says which. So a histogram is the same in whatever
order values come, and two of them add up to what one would have been.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError

# At least half of the bins are in use, which is the 2048 of TensorRT's published method.
BINS = 4096
_SMALLEST_EXPONENT = -120  # of a width, so that its reciprocal is a float32; smaller magnitudes share the first bin


@dataclass
class Histogram:
    """Counts of magnitudes, zeros left out: an exact zero stays exact at any range.

    ``counts[i]`` is of magnitudes in ``[i, i + 1) * width``; bins past the largest magnitude's are empty.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))  # (BINS,)
    exponent: int = _SMALLEST_EXPONENT
    largest: float = 0.0

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def used(self) -> int:
        """Bins up to and with the largest magnitude's; 0 where there were only zeros."""
        return min(int(self.largest / self.width) + 1, BINS) if self.largest else 0

    def add(self, values: NDArray[Any], name: str = "an activation") -> None:
        """Count the magnitudes of ``values``, of any float type and shape; ``name`` is for the complaint.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        magnitudes = np.abs(np.asarray(values, np.float32).reshape(-1))
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest):
            raise CalibrationError(
                f"{name} is NaN or infinite on a calibration image; expected finite numbers: is the checkpoint sound?"
            )
        self._grow(largest)
        bins = (magnitudes * np.float32(math.ldexp(1.0, -self.exponent))).astype(np.intp)
        self.counts += np.bincount(bins, minlength=BINS)
        self.counts[0] -= len(magnitudes) - np.count_nonzero(magnitudes)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of the values of both."""
        whole = Histogram(self.counts.copy(), self.exponent, self.largest)
        whole._grow(other.largest)
        whole.counts += _widened(other.counts, whole.exponent - other.exponent)
        return whole

    def _grow(self, largest: float) -> None:
        """Widen the bins until ``largest`` lies in the last one or before it."""
        if largest <= self.largest:
            return
        # frexp: largest = m * 2^e with 0.5 <= m < 1, so that it falls into the upper half of the bins.
        exponent = max(math.frexp(largest)[1] - BINS.bit_length() + 1, _SMALLEST_EXPONENT)
        self.counts = _widened(self.counts, exponent - self.exponent)
        self.exponent, self.largest = exponent, largest


def _widened(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts in bins that are ``2 ** doublings`` times as wide."""
    merged = np.zeros(BINS, np.int64)
    step = 1 << min(doublings, BINS.bit_length() - 1)
    sums = counts.reshape(-1, step).sum(axis=1)
    merged[: len(sums)] = sums
    return merged
