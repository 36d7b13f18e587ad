"""Attention of every row to every row, as two products around a softmax, rounded where a recipe asks for it.

An engine's own operator for it, where a target has one, keeps floating point throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.ptq4vit import product_behind_softmax
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.onnx.tensors import PRODUCTS
from engines.quantize.methods.fold import Producers
from engines.quantize.recipe import FLOAT16

Product = Callable[[Graph, str, str], str]  # of two values


@dataclass(frozen=True)
class SelfAttention:
    """Every row attends to every row: (1, T, 3 * width) to (1, T, width)."""

    name: str  # of the layer's attention: "self_attn"
    num_heads: int
    width: int

    def parameters(self) -> dict[str, Parameter]:
        """None."""
        return {}

    def producers(self) -> Producers | None:
        """Each row of the values makes one channel."""
        return None

    def products(self) -> tuple[str, ...]:
        """What recipes call the two products."""
        return (f"{self.name}.{PRODUCTS}",)

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, qkv: str) -> str:
        """The products are named in the graph where they are to be rounded: calibration finds them."""
        [name] = self.products()
        precision = weights.of_products(name)
        if precision == FLOAT16:
            return lowering.attention(graph, qkv, self.num_heads, self.width)
        name = weights.prefix + name

        def scores_of(graph: Graph, query: str, keys: str) -> str:
            return graph.nodes("MatMul", [query, keys], [f"{name}.scores"])[0]

        def context_of(graph: Graph, shares: str, value: str) -> str:
            if precision.has_twin_ranges:
                return product_behind_softmax(graph, lowering, shares, value, name)
            return graph.nodes("MatMul", [shares, value], [f"{name}.context"])[0]

        return attention_in_products(graph, lowering, qkv, self.num_heads, self.width, scores_of, context_of)


def _plain(graph: Graph, left: str, right: str) -> str:
    """MatMul."""
    return graph.node("MatMul", [left, right])


def attention_in_products(
    graph: Graph,
    lowering: OpLowering,
    qkv: str,
    num_heads: int,
    width: int,
    scores_of: Product = _plain,
    context_of: Product = _plain,
) -> str:
    """The same in ONNX's own operators, the softmax in float32."""
    query, key, value = (
        graph.node("Reshape", [part, graph.ints(0, -1, num_heads, width // num_heads)])
        for part in graph.nodes("Split", [qkv, graph.ints(width, width, width)], 3, axis=-1)
    )
    scale = (width // num_heads) ** -0.5
    query = graph.node("Mul", [query, lowering.constant(graph, f"number.{scale}", np.array([scale], np.float32))])
    scores = scores_of(graph, heads_first(graph, query), keys_as_columns(graph, key))  # (1, H, T, T)
    shares = lowering.from_float32(graph, graph.node("Softmax", [lowering.to_float32(graph, scores)], axis=-1))
    context = context_of(graph, shares, heads_first(graph, value))
    return graph.node("Reshape", [heads_first(graph, context), graph.ints(0, -1, width)])


def heads_first(graph: Graph, x: str) -> str:
    """(1, T, H, d) to (1, H, T, d), and back."""
    return graph.node("Transpose", [x], perm=(0, 2, 1, 3))


def keys_as_columns(graph: Graph, keys: str) -> str:
    """(1, T, H, d) to (1, H, d, T)."""
    return graph.node("Transpose", [keys], perm=(0, 2, 3, 1))
