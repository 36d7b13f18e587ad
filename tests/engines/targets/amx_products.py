"""Graphs of one product by the operators for AMX, written and executed; tests that need a processor with AMX say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.backends.native import has_operators
from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from engines.layers.lowering.onnxruntime_amx import AmxLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph

needs_amx = pytest.mark.skipif(
    not has_operators(), reason="no processor with AMX here, or no operators compiled for it"
)


def weights_of(rows: int, columns: int, seed: int = 0) -> NDArray[np.float16]:
    """Random weights (rows, columns)."""
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float16)


def write_product(path: Path, weight: Any, bias: Any = None, width: int | None = None) -> Path:
    """A graph of x times a matrix; ``width`` gives x another one than the matrix'."""
    rows, columns = weight.shape if isinstance(weight, np.ndarray) else (weight.rows, weight.columns)
    with Graph(path) as graph:
        x = graph.input("x", "float32", (1, "T", width or columns))
        y = AmxLowering().linear(graph, x, Linear("product", weight, bias))
        graph.output("y", "float32", (1, "T", rows), y)
        graph.save()
    return path


def product(path: Path, x: NDArray[np.float32], threads: int = 2) -> Any:
    """What such a graph makes of rows (T, K)."""
    engine = OnnxRuntimeBackend(threads).load(path)
    y = engine.evaluate({"x": x[None]})["y"][0]
    engine.close()
    return y
