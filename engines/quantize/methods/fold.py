"""Scales of input channels, moved between a matrix and whatever produces its inputs; knows no way of choosing them.

A matrix may be multiplied by column where its inputs are divided alike, ``x Wᵀ = (x / s) (W s)ᵀ``. The division costs
nothing where a norm's weight, or the rows of the matrix before (v_proj before o_proj, up_proj before down_proj), can
take it: neither softmax weights nor a gate, by which rows are only multiplied, are in the way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.quantize.activations import Activations

Float32 = NDArray[np.float32]
Producers = NDArray[np.integer[Any]]


def head_producers(num_heads: int, num_kv_heads: int, head_dim: int) -> Producers:
    """For each input channel of o_proj, the row of v_proj that produces it: heads of a group share theirs."""
    kv_heads = np.arange(num_heads) // (num_heads // num_kv_heads)
    return (kv_heads[:, None] * head_dim + np.arange(head_dim)).reshape(-1)


def share_by_producer(channels: Float32, producers: Producers | None) -> Float32:
    """Magnitudes (K,) made equal, to the largest, where channels come from the same row."""
    if producers is None:
        return channels
    largest = np.zeros(int(producers.max()) + 1, np.float32)
    np.maximum.at(largest, producers, channels)
    return largest[producers]


def fold_into_rows(
    weight: NDArray[np.floating], input_scales: Float32, producers: Producers | None = None
) -> NDArray[np.float16]:
    """The rows of the matrix before (or its bias, or a norm's weight), divided.

    ``producers`` says which row makes which channel.

    Raises:
        CheckpointError: float16 cannot hold the result.
    """
    scales = input_scales
    if producers is not None:
        scales = np.ones(len(weight), np.float32)
        scales[producers] = input_scales
    return _float16((weight.astype(np.float32).T / scales).T)


def scale_columns(weight: NDArray[np.floating], input_scales: Float32) -> NDArray[np.float16]:
    """The matrix (N, K) for inputs that are divided by ``input_scales`` (K,).

    Raises:
        CheckpointError: float16 cannot hold the result.
    """
    return _float16(weight.astype(np.float32) * input_scales)


def divided(activations: Activations, input_scales: Float32) -> Activations:
    """The statistics of the same inputs divided by ``input_scales`` (K,)."""
    return replace(
        activations,
        gram=activations.gram / input_scales[:, None] / input_scales,
        mean_magnitudes=activations.mean_magnitudes / input_scales,
        largest_magnitudes=activations.largest_magnitudes / input_scales,
        held_out=None if activations.held_out is None else activations.held_out / input_scales,
    )


def _float16(values: Float32) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        result: NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(result).all():
        raise CheckpointError(
            f"a weight that input scales were folded into reaches {np.abs(values).max():g}, beyond float16's 65504; "
            "expected ordinary activations: quantize this matrix without scales"
        )
    return result
