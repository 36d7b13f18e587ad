"""How ONNX Runtime's CPU provider likes its graphs: fused operators, float32 compute, packed 4-bit weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.language.positions import ROTARY_INPUTS
from engines.layers.lowering.zero_points import scaled_inputs
from engines.layers.op_lowering import CausalAttention, OpLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix
from engines.quantize.formats.int8 import Int8Matrix
from engines.quantize.formats.nf4 import NF4_BLOCK, SCALES_A_RANGE, Nf4Matrix, dynamic_8bit

_NF4 = 1  # of MatMulBnb4's types
_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level: activations rounded to int8 by block; 4x faster than float32


class OnnxRuntimeLowering(OpLowering):
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
        """MatMul and Add, MatMulNBits or MatMulBnb4."""
        x = scaled_inputs(graph, self, x, linear)
        bias = None if linear.bias is None else self.constant(graph, f"{linear.name}.bias", linear.bias)
        if isinstance(linear.weight, Int4Matrix):
            packed = graph.weight(f"{linear.name}.packed", linear.weight.packed)
            # Packed with the codes while loading, and not read again: in float32 they can stay in the file, and those
            # that a session has to widen stay in memory, beside the packed ones.
            scales = graph.weight(f"{linear.name}.scales", linear.weight.scales.astype(np.float32))
            zeros = ""
            if linear.weight.zeros is not None:
                zeros = graph.weight(f"{linear.name}.zero_points", linear.weight.packed_zeros)
            return graph.node(
                "com.microsoft.MatMulNBits",
                [x, packed, scales, *([zeros, "", bias] if bias else [zeros] if zeros else [])],
                bits=4,
                K=linear.weight.columns,
                N=linear.weight.rows,
                block_size=linear.weight.block_size,
                accuracy_level=_INT8_ARITHMETIC,
            )
        if isinstance(linear.weight, Nf4Matrix):
            product = self._nf4_product(graph, x, linear.name, linear.weight)
        else:
            product = graph.node("MatMul", [x, self._weight(graph, linear.name, linear.weight)])
        return graph.node("Add", [product, bias]) if bias else product

    def _weight(self, graph: Graph, name: str, weight: NDArray[np.float16] | Int8Matrix) -> str:
        """The weight as (K, N)."""
        if not isinstance(weight, Int8Matrix):
            return self.constant(graph, f"{name}.weight", weight.T)
        codes = graph.weight(f"{name}.weight", weight.codes.T)
        scales = graph.weight(f"{name}.scales", weight.scales.astype(np.float32))
        return graph.node("DequantizeLinear", [codes, scales], axis=1)

    @staticmethod
    def _nf4_product(graph: Graph, x: str, name: str, weight: Nf4Matrix) -> str:
        """MatMulBnb4, whose float32 scales are made of the stored 8-bit ones when the session folds them."""
        blocks, ranges = len(weight.scale_codes), len(weight.scale_ranges)
        codes = np.resize(weight.scale_codes, (ranges, SCALES_A_RANGE))
        wide = graph.node("Cast", [graph.weight(f"{name}.scale_codes", codes)], to=TensorProto.INT32)
        scales = graph.node("Gather", [graph.weight("nf4.dynamic_8bit", dynamic_8bit()), wide])
        scales = graph.node("Mul", [scales, graph.weight(f"{name}.scale_ranges", weight.scale_ranges[:, None])])
        scales = graph.node("Add", [scales, graph.weight(f"{name}.scale_mean", np.array([weight.scale_mean]))])
        scales = graph.node("Reshape", [scales, graph.ints(-1)])
        scales = graph.node("Slice", [scales, graph.ints(0), graph.ints(blocks)])
        packed = graph.weight(f"{name}.packed", weight.packed)
        sizes = {"K": weight.shape[1], "N": weight.shape[0], "block_size": NF4_BLOCK}
        return graph.node("com.microsoft.MatMulBnb4", [x, packed, scales], quant_type=_NF4, **sizes)

    def rms_norm(self, graph: Graph, x: str, scale: str, epsilon: float) -> str:
        """SimplifiedLayerNormalization, which ONNX Runtime keeps in ONNX's own domain."""
        return graph.node("SimplifiedLayerNormalization", [x, scale], axis=-1, epsilon=epsilon)

    def add_rms_norm(self, graph: Graph, x: str, residual: str, scale: str, epsilon: float) -> tuple[str, str]:
        """SkipSimplifiedLayerNormalization."""
        return self._skip_norm(graph, "SkipSimplifiedLayerNormalization", [x, residual, scale], epsilon)

    def layer_norm(self, graph: Graph, x: str, scale: str, bias: str, epsilon: float) -> str:
        """LayerNormalization."""
        return graph.node("LayerNormalization", [x, scale, bias], axis=-1, epsilon=epsilon)

    def activation(self, graph: Graph, x: str, kind: str) -> str:
        """Gelu, FastGelu (by a tanh) or QuickGelu; SiLU is a QuickGelu without its factor."""
        operator, attributes = _ACTIVATIONS[kind]
        return graph.node(operator, [x], **attributes)

    def attention(self, graph: Graph, qkv: str, num_heads: int, width: int) -> str:
        """MultiHeadAttention."""
        parts = graph.nodes("Split", [qkv, graph.ints(width, width, width)], 3, axis=-1)
        return graph.node("com.microsoft.MultiHeadAttention", parts, num_heads=num_heads)

    def causal_attention(self, graph: Graph, qkv: str, layer: int, sizes: CausalAttention) -> str:
        """GroupQueryAttention over a cache of fixed size, whose past and present are the same memory."""
        [*past, seqlens, total, cos, sin], outputs = self.cache(graph, layer, sizes, self.dtype)
        return graph.nodes(
            "com.microsoft.GroupQueryAttention",
            [qkv, "", "", *past, seqlens, total, cos, sin],
            outputs,
            num_heads=sizes.num_heads,
            kv_num_heads=sizes.num_kv_heads,
            do_rotary=1,
        )[0]

    @staticmethod
    def cache(graph: Graph, layer: int, sizes: CausalAttention, dtype: str) -> tuple[list[str], list[str]]:
        """Declare a layer's past and present; returns what attention takes behind ``qkv``, and what it puts out."""
        lengths = ["seqlens_k", "total_sequence_length"]
        if not any(spec.name == lengths[0] for spec in graph.inputs):
            for name in lengths:
                graph.input(name, "int32", (1,))
            for name in ROTARY_INPUTS:
                graph.input(name, "float32", ("C", sizes.head_dim // 2))
        shape = (1, sizes.num_kv_heads, "C", sizes.head_dim)
        past = [graph.input(f"past_{part}.{layer}", dtype, shape) for part in ("key", "value")]
        present = [graph.output(f"present_{part}.{layer}", dtype, shape) for part in ("key", "value")]
        return [*past, *lengths, *ROTARY_INPUTS], [f"attention.{layer}", *present]

    @staticmethod
    def _skip_norm(graph: Graph, operator: str, inputs: list[str], epsilon: float) -> tuple[str, str]:
        base = f"{operator}.{inputs[0]}"
        outputs = [f"{base}.normed", "", "", f"{base}.sum"]
        graph.nodes(f"com.microsoft.{operator}", inputs, outputs, epsilon=epsilon)
        return outputs[0], outputs[3]


_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "gelu": ("com.microsoft.Gelu", {}),
    "gelu_tanh": ("com.microsoft.FastGelu", {}),
    "quick_gelu": ("com.microsoft.QuickGelu", {"alpha": 1.702}),
    "silu": ("com.microsoft.QuickGelu", {"alpha": 1.0}),
}
