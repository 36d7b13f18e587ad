"""Matrices and the inputs that meet them, for tests: from numbers that are the same everywhere."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.quantize.activations import Activations, measure_activations

Float32 = NDArray[np.float32]


def matrix_and_inputs(
    seed: int, rows: int, columns: int, tokens: int, outliers: int = 0, dead: int = 0
) -> tuple[Float32, Float32]:
    """A weight (rows, columns) and inputs (tokens, columns): correlated, with loud channels and some never used."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    directions = rng.normal(size=(max(columns // 8, 1), columns))
    inputs = rng.normal(size=(tokens, columns)) + rng.normal(size=(tokens, len(directions))) @ directions
    channels = rng.permutation(columns)
    inputs[:, channels[:outliers]] *= 30
    inputs[:, channels[outliers : outliers + dead]] = 0
    return weight, inputs.astype(np.float32)


def relative_error(weight: Float32, restored: Float32, inputs: Float32) -> float:
    """The squared error of the outputs over the outputs, computed from the inputs themselves."""
    expected = inputs.astype(np.float64) @ weight.T
    return float(np.square(inputs @ restored.T - expected).sum() / np.square(expected).sum())


@st.composite
def problems(draw: st.DrawFn) -> tuple[Float32, Float32, int, Activations]:
    """A weight, inputs, a block size, and the inputs' statistics."""
    columns = draw(st.integers(2, 80))
    weight, inputs = matrix_and_inputs(
        seed=draw(st.integers(0, 2**32 - 1)),
        rows=draw(st.integers(1, 12)),
        columns=columns,
        tokens=draw(st.integers(1, 200)),
        outliers=draw(st.integers(0, columns // 2)),
        dead=draw(st.integers(0, (columns - 1) // 2)),
    )
    return weight, inputs, draw(st.sampled_from([16, 32, 64, 128])), measure_activations(inputs)
