"""What is kept of the rows that met a matrix during calibration: their Gram matrix and ranges, never the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError

Float32 = NDArray[np.float32]

_STRIP = 1024  # columns of the Gram matrix that are summed at a time: its temporaries stay under 4 KiB a column


@dataclass(frozen=True)
class Activations:
    """Statistics of the inputs (rows, K) of a matrix (N, K)."""

    gram: Float32  # (K, K): mean of x xᵀ, half the Hessian of the mean squared output error
    mean_magnitudes: Float32  # (K,)
    largest_magnitudes: Float32  # (K,)
    rows: int
    held_out: Float32 | None = None  # (T, K), rows of an image that the statistics don't know

    @property
    def columns(self) -> int:
        """K."""
        return len(self.gram)

    def block_grams(self, block_size: int) -> Float32:
        """The diagonal blocks of the Gram matrix: (blocks, block_size, block_size), the last padded with zeros."""
        blocks = np.zeros((-(-self.columns // block_size), block_size, block_size), np.float32)
        for index, block in enumerate(blocks):
            part = slice(index * block_size, min((index + 1) * block_size, self.columns))
            width = part.stop - part.start
            block[:width, :width] = self.gram[part, part]
        return blocks

    def output_errors(self, errors: Float32) -> Float32:
        """The mean squared output error of each row of a matrix that is ``errors`` (N, K) off: float32 (N,)."""
        result = np.zeros(len(errors), np.float32)
        for start in range(0, self.columns, _STRIP):
            strip = slice(start, start + _STRIP)
            result += np.einsum("nk,nk->n", errors @ self.gram[:, strip], errors[:, strip])
        return np.maximum(result, 0, out=result)  # rounding may leave a zero just below itself

    def held_out_error(self, errors: Float32) -> float:
        """The mean squared output error, over rows of a matrix that is ``errors`` off, on what was held out."""
        if self.held_out is None:
            return float(self.output_errors(errors).sum(dtype=np.float64))
        return float(np.square(self.held_out @ errors.T).sum(axis=1, dtype=np.float64).mean())


class ActivationMeter:
    """Adds up batches of inputs, in any split, into an ``Activations``; holds K squared float32."""

    def __init__(self, columns: int) -> None:
        self._products = np.zeros((columns, columns), np.float32)  # only its upper strips are filled
        self._magnitudes = np.zeros(columns, np.float64)
        self._largest = np.zeros(columns, np.float32)
        self._rows = 0

    @property
    def rows(self) -> int:
        """How many were added."""
        return self._rows

    def add(self, batch: NDArray[np.floating], name: str = "activations") -> None:
        """Add the rows of ``batch`` (..., K); ``name`` says whose they are.

        Raises:
            CalibrationError: a value is NaN or infinite, or the width is another.
        """
        rows = np.asarray(batch, np.float32).reshape(-1, batch.shape[-1])
        if rows.shape[1] != len(self._largest):
            raise CalibrationError(f"a batch of {name} has {rows.shape[1]} channels; expected {len(self._largest)}")
        if not (finite := np.isfinite(rows)).all():
            channels = np.flatnonzero(~finite.all(axis=0))
            raise CalibrationError(
                f"{name} hold NaN or infinity, first in channel {channels[0]} ({len(channels)} channels of "
                f"{rows.shape[1]}); expected finite values: the model overflows before this matrix, so look for the "
                "first layer whose outputs are not finite, and keep that in float32"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # ``finish`` tells of it
            for start in range(0, rows.shape[1], _STRIP):
                self._products[start : start + _STRIP, start:] += rows[:, start : start + _STRIP].T @ rows[:, start:]
        magnitudes = np.abs(rows)
        self._magnitudes += magnitudes.sum(axis=0, dtype=np.float64)
        np.maximum(self._largest, magnitudes.max(axis=0, initial=0), out=self._largest)
        self._rows += len(rows)

    def finish(self) -> Activations:
        """The statistics of all that was added; the meter's memory goes with them, and it cannot be used again.

        Raises:
            CalibrationError: there were no rows, or nothing but zeros, or values whose squares overflow float32.
        """
        gram, self._products = self._products, np.empty((0, 0), np.float32)
        if not self._rows or not self._largest.any():
            found = "no activations" if not self._rows else f"{self._rows} rows of zeros"
            raise CalibrationError(f"calibration found {found}; expected inputs: give it images that reach this matrix")
        gram /= self._rows
        if not np.isfinite(gram).all():
            raise CalibrationError(
                f"activations reach {self._largest.max():g}, and their squares overflow float32; expected a model "
                "whose hidden states float16 can nearly hold"
            )
        for start in range(0, len(gram), _STRIP):
            end = start + _STRIP
            gram[end:, start:end] = gram[start:end, end:].T
        means = (self._magnitudes / self._rows).astype(np.float32)
        return Activations(gram, means, self._largest, self._rows)


def measure_activations(rows: NDArray[np.floating]) -> Activations:
    """The statistics of ``rows`` (..., K) that are all in memory."""
    meter = ActivationMeter(rows.shape[-1])
    meter.add(rows)
    return meter.finish()
