"""GPTQ: rounding column by column, each error carried over to the columns not yet rounded; knows one matrix at a time.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers". Columns go in
the order of falling activation, with the scales of every block chosen beforehand, so that the blocks stay contiguous.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError
from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import dequantize, int4_from_steps, step_range
from engines.quantize.methods.inverse_cholesky import inverse_cholesky
from engines.quantize.methods.range_search import quantize_fitted
from engines.quantize.methods.row_selection import Calibrated, check_widths, choose_rows
from engines.quantize.methods.rtn import quantize_rtn

Float32 = NDArray[np.float32]

_LAZY_COLUMNS = 128  # errors reach the columns beyond in one matrix product
_STRIP = 1024
_DAMPING = 0.01  # of the Gram matrix' mean diagonal
_LARGEST_DAMPING = 1.0


def quantize_gptq(weight: NDArray[np.floating], block_size: int, activations: Activations, bits: int = 4) -> Calibrated:
    """Round ``weight`` (N, K) so that its outputs on the calibration data move least, column by column.

    The scales are those with the least squared error of the weights, and are fitted to the codes once more at the end.
    A row that rounding to nearest serves better keeps it. Channels that calibration never saw are rounded to nearest.
    Holds about two float32 (K, K) and three (N, K) beyond its arguments.

    Raises:
        CheckpointError: a weight is NaN, infinite, or too large for a float16 scale.
        CalibrationError: the activations are of another width, or have no usable Gram matrix.
    """
    check_widths(weight, activations)
    scales = quantize_fitted(weight, block_size, bits=bits).scales
    steps = _round_columns(weight, scales, activations.gram, block_size, bits)
    for start in range(0, len(weight), _STRIP):
        rows = slice(start, start + _STRIP)
        scales[rows] = _refit_scales(weight[rows], steps[rows], scales[rows], activations.gram)
    rounded = int4_from_steps(steps, scales, weight.shape[1])
    return choose_rows(weight, [quantize_rtn(weight, block_size, bits), rounded], activations)


def _round_columns(
    weight: NDArray[np.floating], scales: NDArray[np.float16], gram: Float32, block_size: int, bits: int
) -> NDArray[np.int8]:
    """The steps (N, blocks, block_size): algorithm 1 of the paper, on the transpose, whose columns are contiguous."""
    rows, columns = weight.shape
    lowest, highest = step_range(bits)
    order = np.argsort(-np.diagonal(gram), kind="stable")
    factor = _damped_factor(gram, order)
    left = weight.T[order].astype(np.float32)  # (K, N), what is still to be rounded
    column_scales = scales.T.astype(np.float32)  # (blocks, N)
    steps = np.zeros((len(column_scales) * block_size, rows), np.int8)
    for start in range(0, columns, _LAZY_COLUMNS):
        end = min(start + _LAZY_COLUMNS, columns)
        block, errors = left[start:end], np.empty((end - start, rows), np.float32)
        for i, column in enumerate(order[start:end]):
            scale = column_scales[column // block_size]
            step = np.clip(np.rint(block[i] / scale), lowest, highest)
            steps[column] = step
            influence = factor[start + i, start + i : end]
            errors[i] = (block[i] - step * scale) / influence[0]
            block[i + 1 :] -= np.outer(influence[1:], errors[i])
        for strip in range(end, columns, _STRIP):
            left[strip : strip + _STRIP] -= factor[start:end, strip : strip + _STRIP].T @ errors
    return np.ascontiguousarray(steps.T).reshape(rows, -1, block_size)


def _damped_factor(gram: Float32, order: NDArray[np.intp]) -> Float32:
    """The upper factor of the inverse Gram matrix in ``order``, damped as far as float32 needs it."""
    damping = _DAMPING
    while damping <= _LARGEST_DAMPING:
        damped = gram[np.ix_(order, order)]
        damped[np.diag_indices_from(damped)] += damping * float(np.diagonal(gram).mean(dtype=np.float64))
        try:
            return inverse_cholesky(damped)
        except np.linalg.LinAlgError:
            damping *= 10
    raise CalibrationError(
        "the activations' Gram matrix is not positive definite, even damped by its own mean; "
        "expected one made by ActivationMeter: calibrate again"
    )


def _refit_scales(
    weight: NDArray[np.floating], steps: NDArray[np.int8], scales: NDArray[np.float16], gram: Float32
) -> NDArray[np.float16]:
    """The scales that suit the steps best, one block after another: each is a least squares of the output error."""
    values = steps.astype(np.float32)  # (n, blocks, block_size)
    block_size = values.shape[2]
    matrix = int4_from_steps(steps, scales, weight.shape[1])
    slopes = (weight - dequantize(matrix)) @ gram  # (n, K): half the objective's slope by each weight
    refitted: NDArray[np.float16] = scales.copy()
    for block in range(values.shape[1]):
        part = slice(block * block_size, min((block + 1) * block_size, weight.shape[1]))
        step = values[:, block, : part.stop - part.start]
        power = ((step @ gram[part, part]) * step).sum(axis=1)
        wanted = (slopes[:, part] * step).sum(axis=1)
        change = np.divide(wanted, power, out=np.zeros_like(power), where=power > 0)
        old = scales[:, block].astype(np.float32)
        refitted[:, block] = np.clip(old + change, old / 2, old * 2)
        slopes -= ((refitted[:, block].astype(np.float32) - old)[:, None] * step) @ gram[part]
    return refitted
