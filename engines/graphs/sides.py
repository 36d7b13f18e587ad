"""A product with what a GELU puts out, taken apart at zero where INT8 asks for it; knows no range and no target.

A GELU's outputs have two peaks: many just below zero, never beyond -0.17, and few far above it. One scale for both
leaves the many a handful of steps. Yuan et al. 2022, "PTQ4ViT: Post-Training Quantization for Vision Transformers with
Twin Uniform Quantization": a scale for each side. As both sides meet the same weights, that is two ordinary products of
integers and their sum, whatever the engine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engines.graphs.builder import Graph
from engines.graphs.dialect import Dialect
from engines.graphs.weights import Weights


def linear_behind_gelu(graph: Graph, dialect: Dialect, x: str, weights: Weights, name: str) -> str:
    """The matrix ``name`` of (1, T, K), a GELU's output, to (1, T, N): in two products where its ranges are twins."""
    linear = weights.linear(name)
    if not weights.has_twin_ranges(name):
        return dialect.linear(graph, x, linear)
    zero = dialect.constant(graph, "zero", np.zeros(1, np.float16))
    below, above = (graph.node(operator, [x, zero]) for operator in ("Min", "Max"))
    return graph.node(
        "Add", [dialect.linear(graph, below, replace(linear, bias=None)), dialect.linear(graph, above, linear)]
    )
