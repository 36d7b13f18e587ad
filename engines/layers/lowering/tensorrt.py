"""How TensorRT likes its graphs: ONNX's own operators, float16 compute, a key/value cache that is only read.

Nothing here needs TensorRT, and ONNX Runtime executes the graphs too. What float16 is too coarse for (norms, softmax,
attention's mask) is computed in float32 between casts, which TensorRT fuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.language.positions import ROTARY_INPUTS
from engines.layers.attention import attention_in_products, heads_first, keys_as_columns
from engines.layers.lowering.zero_points import add_zero_points, scaled_inputs
from engines.layers.op_lowering import CausalAttention, OpLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix, dequantize
from engines.quantize.formats.int8 import Int8Matrix
from engines.quantize.formats.nf4 import Nf4Matrix

_MASKED = -1e9  # beyond any float16 score; finite, as infinities make NaN of a row that sees nothing


class TensorRTLowering(OpLowering):
    """Lowers to ONNX's own operators; one instance a graph."""

    dtype = "float16"

    def __init__(self) -> None:
        self._step: _Step | None = None

    def constant(self, graph: Graph, name: str, array: NDArray[Any]) -> str:
        """A float16 constant."""
        return graph.weight(name, array.astype(np.float16))

    def from_float32(self, graph: Graph, x: str) -> str:
        """Cast to float16."""
        return graph.node("Cast", [x], to=TensorProto.FLOAT16)

    def to_float32(self, graph: Graph, x: str) -> str:
        """Cast to float32."""
        return graph.node("Cast", [x], to=TensorProto.FLOAT)

    def linear(self, graph: Graph, x: str, linear: Linear) -> str:
        """MatMul and Add; a quantized weight is dequantized with nothing between that and the MatMul."""
        x, weight = scaled_inputs(graph, self, x, linear), linear.weight
        product = graph.node("MatMul", [x, self._weight(graph, linear)])
        if isinstance(weight, Int4Matrix) and keeps_int4(weight.columns, weight.block_size):
            product = add_zero_points(graph, self, x, product, linear.name, weight)
        if linear.bias is None:
            return product
        return graph.node("Add", [product, self.constant(graph, f"{linear.name}.bias", linear.bias)])

    def rms_norm(self, graph: Graph, x: str, scale: str, epsilon: float) -> str:
        """Written out, with the mean of squares in float32."""
        wide = self.to_float32(graph, x)
        mean = graph.node("ReduceMean", [graph.node("Mul", [wide, wide]), graph.ints(-1)], keepdims=1)
        floor = graph.weight("rms_norm.epsilon", np.array([epsilon], np.float32))
        normed = graph.node("Div", [wide, graph.node("Sqrt", [graph.node("Add", [mean, floor])])])
        return graph.node("Mul", [self.from_float32(graph, normed), scale])

    def add_rms_norm(self, graph: Graph, x: str, residual: str, scale: str, epsilon: float) -> tuple[str, str]:
        """Add, then the norm."""
        total = graph.node("Add", [x, residual])
        return self.rms_norm(graph, total, scale, epsilon), total

    def layer_norm(self, graph: Graph, x: str, scale: str, bias: str, epsilon: float) -> str:
        """LayerNormalization in float32."""
        wide = [self.to_float32(graph, value) for value in (x, scale, bias)]
        return self.from_float32(graph, graph.node("LayerNormalization", wide, axis=-1, epsilon=epsilon))

    def activation(self, graph: Graph, x: str, kind: str) -> str:
        """Gelu, or ``x * sigmoid(alpha * x)``."""
        if kind == "gelu":
            return graph.node("Gelu", [x])
        if kind == "gelu_tanh":
            return graph.node("Gelu", [x], approximate="tanh")
        alpha = _SIGMOID_ALPHAS[kind]
        steep = x if alpha == 1.0 else graph.node("Mul", [x, self._number(graph, alpha)])
        return graph.node("Mul", [x, graph.node("Sigmoid", [steep])])

    def attention(self, graph: Graph, qkv: str, num_heads: int, width: int) -> str:
        """Two matrix products around a softmax."""
        return attention_in_products(graph, self, qkv, num_heads, width)

    def causal_attention(self, graph: Graph, qkv: str, layer: int, sizes: CausalAttention) -> str:
        """Scores against the cache and against the step's own rows under one softmax; the cache is never copied.

        The cache is token-major, so that reading less of it needs no other memory. Its rows from ``past_length`` on
        are masked, and must be finite.
        """
        heads, kv_heads, size = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
        parts = graph.nodes("Split", [qkv, graph.ints(heads * size, kv_heads * size, kv_heads * size)], 3, axis=-1)
        query, key, value = (
            graph.node("Reshape", [part, graph.ints(1, -1, count, size)])
            for part, count in zip(parts, (heads, kv_heads, kv_heads), strict=True)
        )
        past_key, past_value = (
            graph.input(f"past_{part}.{layer}", self.dtype, (1, "C", kv_heads, size)) for part in ("key", "value")
        )
        step = self._step = self._step or self._describe_step(graph, qkv, past_key, sizes)
        query, key = self._rotate(graph, query, step), self._rotate(graph, key, step)
        for name, rows in ((f"new_key.{layer}", key), (f"new_value.{layer}", value)):
            graph.output(name, self.dtype, (1, "T", kv_heads, size), rows)

        query = graph.node("Mul", [query, self._number(graph, size**-0.5)])
        query = _share_heads(graph, query, sizes)  # (1, Hkv, g T, d): the g queries of one key side by side
        seen = self._masked_scores(graph, query, past_key, step.past_mask)  # (1, Hkv, g T, C)
        own = self._masked_scores(graph, query, key, step.own_mask)  # (1, Hkv, g T, T)
        shares = graph.node("Softmax", [graph.node("Concat", [seen, own], axis=-1)], axis=-1)
        shares = self.from_float32(graph, shares)
        past_shares = graph.node("Slice", [shares, graph.ints(0), step.capacity, graph.ints(-1)])
        own_shares = graph.node("Slice", [shares, step.capacity, graph.ints(1 << 31), graph.ints(-1)])
        from_past = graph.node("MatMul", [past_shares, heads_first(graph, past_value)])
        from_own = graph.node("MatMul", [own_shares, heads_first(graph, value)])
        return _unshare_heads(graph, graph.node("Add", [from_past, from_own]), sizes)

    def _weight(self, graph: Graph, linear: Linear) -> str:
        """The weight as (K, N)."""
        weight = linear.weight
        if isinstance(weight, Int8Matrix):
            codes = graph.weight(f"{linear.name}.weight", weight.codes.T)
            scales = self.constant(graph, f"{linear.name}.scales", weight.scales)
            return graph.node("DequantizeLinear", [codes, scales], axis=1)
        assert not isinstance(weight, Nf4Matrix), "plans refuse it"
        if not isinstance(weight, Int4Matrix):
            return self.constant(graph, f"{linear.name}.weight", weight.T)
        if not keeps_int4(weight.columns, weight.block_size):
            return self.constant(graph, f"{linear.name}.weight", dequantize(weight).T)
        codes = graph.int4(f"{linear.name}.weight", np.ascontiguousarray(weight.steps.T))
        scales = self.constant(graph, f"{linear.name}.scales", weight.scales.T)
        return graph.node("DequantizeLinear", [codes, scales], axis=0, block_size=weight.block_size)

    def _describe_step(self, graph: Graph, qkv: str, past_key: str, sizes: CausalAttention) -> _Step:
        """Positions and masks, which all layers share."""
        past_length = graph.input("past_length", "int32", (1,))
        tokens = graph.node("Shape", [qkv], start=1, end=2)
        capacity = graph.node("Shape", [past_key], start=1, end=2)
        own = _count(graph, tokens)  # (T,)
        positions = graph.node("Add", [past_length, own])
        by_token = graph.ints(1, -1, 1, sizes.head_dim // 2)
        tables = [graph.input(name, "float32", ("P", sizes.head_dim // 2)) for name in ROTARY_INPUTS]
        rows = [self.from_float32(graph, graph.node("Gather", [table, positions])) for table in tables]
        turns = [graph.node("Reshape", [row, by_token]) for row in rows]  # (1, T, 1, d / 2)
        past_mask = _mask(graph, graph.node("Less", [_count(graph, capacity), past_length]))  # (C,)
        later = graph.node("Reshape", [own, graph.ints(-1, 1)])
        own_mask = _mask(graph, graph.node("LessOrEqual", [own, later]))  # (T, T)
        if sizes.num_heads > sizes.num_kv_heads:
            own_mask = graph.node("Tile", [own_mask, graph.ints(sizes.num_heads // sizes.num_kv_heads, 1)])  # (g T, T)
        return _Step(capacity, turns[0], turns[1], past_mask, own_mask)

    def _rotate(self, graph: Graph, x: str, step: _Step) -> str:
        """(1, T, heads, d) turned to the rows' positions."""
        low, high = graph.nodes("Split", [x], 2, axis=-1, num_outputs=2)

        def turned(operator: str, a: str, b: str) -> str:
            return graph.node(operator, [graph.node("Mul", [a, step.cos]), graph.node("Mul", [b, step.sin])])

        return graph.node("Concat", [turned("Sub", low, high), turned("Add", high, low)], axis=-1)

    def _masked_scores(self, graph: Graph, query: str, keys: str, mask: str) -> str:
        scores = graph.node("MatMul", [query, keys_as_columns(graph, keys)])
        return graph.node("Add", [self.to_float32(graph, scores), mask])

    def _number(self, graph: Graph, value: float) -> str:
        return self.constant(graph, f"number.{value}", np.array([value]))


@dataclass(frozen=True)
class _Step:
    """Values that describe a decoder's step."""

    capacity: str  # (1,): rows of the cache, C
    cos: str
    sin: str
    past_mask: str  # (C,), to be added to scores
    own_mask: str  # (g T, T)


_SIGMOID_ALPHAS = {"quick_gelu": 1.702, "silu": 1.0}


def keeps_int4(columns: int, block_size: int) -> bool:
    """Whether TensorRT takes a 4-bit matrix in these blocks; others are written out in float16."""
    return columns % block_size == 0


def _count(graph: Graph, length: str) -> str:
    """0, 1, ... as int32, ``length`` of them."""
    start, step = graph.weight("zero", np.array(0, np.int64)), graph.weight("one", np.array(1, np.int64))
    numbers = graph.node("Range", [start, graph.node("Squeeze", [length, graph.ints(0)]), step])
    return graph.node("Cast", [numbers], to=TensorProto.INT32)


def _mask(graph: Graph, visible: str) -> str:
    kept, hidden = (graph.weight(f"mask.{value}", np.array(value, np.float32)) for value in (0.0, _MASKED))
    return graph.node("Where", [visible, kept, hidden])


def _share_heads(graph: Graph, query: str, sizes: CausalAttention) -> str:
    """(1, T, H, d) to (1, Hkv, g T, d)."""
    kv_heads, size = sizes.num_kv_heads, sizes.head_dim
    if sizes.num_heads == kv_heads:
        return heads_first(graph, query)
    grouped = graph.node("Reshape", [query, graph.ints(-1, kv_heads, sizes.num_heads // kv_heads, size)])
    grouped = graph.node("Transpose", [grouped], perm=(1, 2, 0, 3))  # (Hkv, g, T, d)
    return graph.node("Reshape", [grouped, graph.ints(1, kv_heads, -1, size)])


def _unshare_heads(graph: Graph, context: str, sizes: CausalAttention) -> str:
    """(1, Hkv, g T, d) to (1, T, H d)."""
    kv_heads, size = sizes.num_kv_heads, sizes.head_dim
    if sizes.num_heads == kv_heads:
        rows = heads_first(graph, context)
    else:
        grouped = graph.node("Reshape", [context, graph.ints(kv_heads, sizes.num_heads // kv_heads, -1, size)])
        rows = graph.node("Transpose", [grouped], perm=(2, 0, 1, 3))  # (T, Hkv, g, d)
    return graph.node("Reshape", [rows, graph.ints(1, -1, sizes.num_heads * size)])
