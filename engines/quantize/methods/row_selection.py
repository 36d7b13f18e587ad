"""Of several roundings of a matrix, row by row the one whose outputs are nearest; knows no way of rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError
from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import Int4Matrix, dequantize

Float32 = NDArray[np.float32]

_ROWS = 1024  # compared at a time


@dataclass(frozen=True)
class Calibrated:
    """A rounded matrix, and the squared error of its outputs on the calibration data over that of its outputs."""

    matrix: Int4Matrix
    output_error: float
    rtn_output_error: float  # what rounding to nearest would have


def check_widths(weight: NDArray[np.floating], activations: Activations) -> None:
    """Refuse activations that belong to another matrix.

    Raises:
        CalibrationError: their width is not that of ``weight`` (N, K).
    """
    if weight.shape[1] != activations.columns:
        raise CalibrationError(
            f"activations of {activations.columns} channels were given for a matrix of {weight.shape[1]}; "
            "expected those that this very matrix received"
        )


def choose_rows(weight: NDArray[np.floating], candidates: Sequence[Int4Matrix], activations: Activations) -> Calibrated:
    """The nearest of ``candidates`` for each row of ``weight`` (N, K); the first is rounding to nearest.

    Rows of an output don't meet, so that choosing by row is choosing the best of all combinations.
    """
    packed, scales = candidates[0].packed.copy(), candidates[0].scales.copy()
    norm = error = rtn_error = 0.0
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        part = weight[rows].astype(np.float32)
        errors = np.stack([activations.output_errors(part - dequantize(_rows(c, rows))) for c in candidates])
        best = errors.argmin(axis=0)
        for index, candidate in enumerate(candidates[1:], start=1):
            chosen = start + np.flatnonzero(best == index)
            packed[chosen], scales[chosen] = candidate.packed[chosen], candidate.scales[chosen]
        norm += float(activations.output_errors(part).sum(dtype=np.float64))
        error += float(errors.min(axis=0).sum(dtype=np.float64))
        rtn_error += float(errors[0].sum(dtype=np.float64))
    matrix = Int4Matrix(packed, scales, candidates[0].columns, candidates[0].block_size)
    return Calibrated(matrix, error / norm if norm else 0.0, rtn_error / norm if norm else 0.0)


def _rows(matrix: Int4Matrix, rows: slice) -> Int4Matrix:
    return Int4Matrix(matrix.packed[rows], matrix.scales[rows], matrix.columns, matrix.block_size)
