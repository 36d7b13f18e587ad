"""Products with what a GELU or a softmax puts out, taken apart where INT8 asks for it; knows no range and no target.

Both have two peaks. A GELU's outputs are many just below zero, never beyond -0.17, and few far above it; a softmax's
are many shares close to nothing, and few close to 1. One scale for both leaves the many a handful of steps, or none.
Yuan et al. 2022, "PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization": a scale
for each side. As both sides meet the same matrix, that is two ordinary products of integers and their sum, whatever the
engine. Sides are called after what they meet, so that calibration finds them, and sees whether two scales help.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engines.layers.op_lowering import OpLowering
from engines.layers.weights import Weights
from engines.onnx.builder import Graph

BELOW, ABOVE = ".below", ".above"  # endings of the sides' names

# Where a softmax's outputs are taken apart. In the six layers of the reference inspector's vision encoder, of the
# powers of two from 1/2 to 1/256 this or 1/32 is best: it leaves 0.014 to 0.021 of the outputs' length as error, where
# one scale leaves 0.07 to 0.21. Eight bits of logarithm leave 0.2 in whole octaves, which integers can be shifted by,
# and 0.013 in sixteenths of one, by which no engine multiplies.
_SOFTMAX_EDGE = 1 / 16


def linear_behind_gelu(graph: Graph, lowering: OpLowering, x: str, weights: Weights, name: str) -> str:
    """The matrix ``name`` of (1, T, K), a GELU's output, to (1, T, N): in two products where its ranges are twins."""
    linear = weights.linear(name)
    if not weights.has_twin_ranges(name):
        return lowering.linear(graph, x, linear)
    zero = lowering.constant(graph, "zero", np.zeros(1, np.float16))
    [below] = graph.nodes("Min", [x, zero], [linear.name + BELOW])
    [above] = graph.nodes("Max", [x, zero], [linear.name + ABOVE])
    return graph.node(
        "Add", [lowering.linear(graph, below, replace(linear, bias=None)), lowering.linear(graph, above, linear)]
    )


def product_behind_softmax(graph: Graph, lowering: OpLowering, shares: str, value: str, name: str) -> str:
    """Shares (1, H, T, T), a softmax's output, times values (1, H, T, d), in two products."""
    zero = lowering.constant(graph, "zero", np.zeros(1, np.float16))
    edge = lowering.constant(graph, "softmax.edge", np.array([_SOFTMAX_EDGE], np.float16))
    small = graph.node("Less", [shares, edge])
    [below] = graph.nodes("Where", [small, shares, zero], [name + BELOW])
    [above] = graph.nodes("Where", [small, zero, shares], [name + ABOVE])
    parts = [graph.nodes("MatMul", [side, value], [f"{side}.context"])[0] for side in (below, above)]
    return graph.node("Add", parts)
