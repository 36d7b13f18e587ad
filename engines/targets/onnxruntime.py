"""How ONNX Runtime's CPU provider likes its graphs: fused operators, float32 compute, packed 4-bit weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.bundle import Component
from engines.families.base import Part
from engines.graphs.builder import Graph
from engines.graphs.dialect import CausalAttention
from engines.graphs.weights import Linear, TensorSource
from engines.precision import Precision
from engines.quantize.int4 import Int4Matrix
from engines.targets.base import TargetOptions, component_of, write_rows

_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level: activations rounded to int8 by block; 4x faster than float32


class OnnxRuntimeDialect:
    """Lowers to ``com.microsoft`` operators; stored float16 is cast to float32, once, when the session folds it."""

    dtype = "float32"

    def constant(self, graph: Graph, name: str, array: NDArray[Any]) -> str:
        """A float16 constant cast to float32; float32 is stored as it is."""
        stored = graph.weight(name, array)
        return stored if array.dtype == np.float32 else graph.node("Cast", [stored], to=TensorProto.FLOAT)

    def from_float32(self, graph: Graph, x: str) -> str:
        """The same."""
        return x

    def to_float32(self, graph: Graph, x: str) -> str:
        """The same."""
        return x

    def linear(self, graph: Graph, x: str, linear: Linear) -> str:
        """MatMul and Add, or MatMulNBits."""
        bias = None if linear.bias is None else self.constant(graph, f"{linear.name}.bias", linear.bias)
        if isinstance(linear.weight, Int4Matrix):
            packed = graph.weight(f"{linear.name}.packed", linear.weight.packed)
            scales = self.constant(graph, f"{linear.name}.scales", linear.weight.scales)
            return graph.node(
                "com.microsoft.MatMulNBits",
                [x, packed, scales, *(["", "", bias] if bias else [])],
                bits=4,
                K=linear.weight.columns,
                N=linear.weight.rows,
                block_size=linear.weight.block_size,
                accuracy_level=_INT8_ARITHMETIC,
            )
        product = graph.node("MatMul", [x, self.constant(graph, f"{linear.name}.weight", linear.weight.T)])
        return graph.node("Add", [product, bias]) if bias else product

    def rms_norm(self, graph: Graph, x: str, scale: str, epsilon: float) -> str:
        """SimplifiedLayerNormalization, which ONNX Runtime keeps in ONNX's own domain."""
        return graph.node("SimplifiedLayerNormalization", [x, scale], axis=-1, epsilon=epsilon)

    def add_rms_norm(self, graph: Graph, x: str, residual: str, scale: str, epsilon: float) -> tuple[str, str]:
        """SkipSimplifiedLayerNormalization."""
        return self._skip_norm(graph, "SkipSimplifiedLayerNormalization", [x, residual, scale], epsilon)

    def layer_norm(self, graph: Graph, x: str, scale: str, bias: str, epsilon: float) -> str:
        """LayerNormalization."""
        return graph.node("LayerNormalization", [x, scale, bias], axis=-1, epsilon=epsilon)

    def add_layer_norm(
        self, graph: Graph, x: str, residual: str, scale: str, bias: str, epsilon: float
    ) -> tuple[str, str]:
        """Add and LayerNormalization: fused, the library computes the statistics one number at a time."""
        total = graph.node("Add", [x, residual])
        return self.layer_norm(graph, total, scale, bias, epsilon), total

    def activation(self, graph: Graph, x: str, kind: str) -> str:
        """Gelu or QuickGelu; SiLU is a QuickGelu without its factor."""
        operator, attributes = _ACTIVATIONS[kind]
        return graph.node(operator, [x], **attributes)

    def attention(self, graph: Graph, qkv: str, num_heads: int, width: int) -> str:
        """MultiHeadAttention."""
        parts = graph.nodes("Split", [qkv, graph.ints(width, width, width)], 3, axis=-1)
        return graph.node("com.microsoft.MultiHeadAttention", parts, num_heads=num_heads)

    def causal_attention(self, graph: Graph, qkv: str, layer: int, sizes: CausalAttention) -> str:
        """GroupQueryAttention over a cache of fixed size, whose past and present are the same memory."""
        if not any(spec.name == "seqlens_k" for spec in graph.inputs):
            graph.input("seqlens_k", "int32", (1,))
            graph.input("total_sequence_length", "int32", (1,))
        cache_shape = (1, sizes.num_kv_heads, "C", sizes.head_dim)
        past = [graph.input(f"past_{part}.{layer}", self.dtype, cache_shape) for part in ("key", "value")]
        present = [graph.output(f"present_{part}.{layer}", self.dtype, cache_shape) for part in ("key", "value")]
        tables = [graph.weight("rotary.cos", sizes.cos), graph.weight("rotary.sin", sizes.sin)]
        return graph.nodes(
            "com.microsoft.GroupQueryAttention",
            [qkv, "", "", *past, "seqlens_k", "total_sequence_length", *tables],
            [f"attention.{layer}", *present],
            num_heads=sizes.num_heads,
            kv_num_heads=sizes.num_kv_heads,
            do_rotary=1,
        )[0]

    @staticmethod
    def _skip_norm(graph: Graph, operator: str, inputs: list[str], epsilon: float) -> tuple[str, str]:
        base = f"{operator}.{inputs[0]}"
        outputs = [f"{base}.normed", "", "", f"{base}.sum"]
        graph.nodes(f"com.microsoft.{operator}", inputs, outputs, epsilon=epsilon)
        return outputs[0], outputs[3]


_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "gelu": ("com.microsoft.Gelu", {}),
    "quick_gelu": ("com.microsoft.QuickGelu", {"alpha": 1.702}),
    "silu": ("com.microsoft.QuickGelu", {"alpha": 1.0}),
}


class OnnxRuntimeTarget:
    """Writes a graph beside its weights; compiling is left to the runtime's own session."""

    versions: Mapping[str, str] = {}

    def __init__(self, options: TargetOptions) -> None:
        pass  # sizes are free in its graphs

    def write_component(self, directory: Path, part: Part, source: TensorSource, precision: Precision) -> Component:
        """See :class:`engines.targets.base.Target`."""
        if part.emit is None:
            return write_rows(directory, part, source, precision)
        with Graph(directory / f"{part.name}.onnx") as graph:
            part.emit(graph, OnnxRuntimeDialect(), source, precision)
            files = graph.save()
        return component_of(part, precision, files, tuple(graph.inputs), tuple(graph.outputs))
