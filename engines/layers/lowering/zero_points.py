"""What a checkpoint quantized by another tool asks of a product beside symmetric codes; the same for every target."""

from __future__ import annotations

import numpy as np

from engines.layers.op_lowering import OpLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix


def scaled_inputs(graph: Graph, lowering: OpLowering, x: str, linear: Linear) -> str:
    """``x`` times the scales of the matrix' inputs, where it has some."""
    if linear.input_scales is None:
        return x
    scales = graph.weight(f"{linear.name}.input_scales", linear.input_scales)
    return lowering.from_float32(graph, graph.node("Mul", [lowering.to_float32(graph, x), scales]))


def add_zero_points(graph: Graph, lowering: OpLowering, x: str, product: str, name: str, weight: Int4Matrix) -> str:
    """The product of ``x`` with the steps of ``weight``, and what its zero points add: exact, in float32.

    Of each block, that is the sum of its inputs times ``(8 - zero) * scale``: one multiplication for ``block_size`` of
    the product's own.
    """
    if weight.zeros is None:
        return product
    blocks = weight.zeros.shape[1]
    wide = lowering.to_float32(graph, x)
    parts = graph.node("Reshape", [wide, graph.ints(1, -1, blocks, weight.block_size)])
    sums = graph.node("ReduceSum", [parts, graph.ints(-1)], keepdims=0)  # (1, T, blocks)
    offsets = graph.weight(f"{name}.offsets", np.ascontiguousarray(weight.offsets.T))
    added = graph.node("MatMul", [sums, offsets])
    return lowering.from_float32(graph, graph.node("Add", [lowering.to_float32(graph, product), added]))


def offset_bytes(rows: int, columns: int, block_size: int) -> int:
    """Bytes of what zero points add to a (rows, columns) matrix, beside its codes and scales."""
    return 4 * rows * (columns // block_size)
