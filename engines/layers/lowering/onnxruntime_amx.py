"""Matrices as the operators of ``edge_runtime.amx`` read them, and the graphs that call those; computes nothing.

What these operators are told in their C++ headers: 16 columns of a product lie beside each other, in the order in which
a processor with AMX takes them up, so that a matrix is used where its file is mapped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.native import DOMAIN
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.lowering.zero_points import add_zero_points, scaled_inputs
from engines.layers.op_lowering import CausalAttention
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix

_SLICE = 16  # columns of a product that lie together
_PAIR = 32  # columns that are computed at once
_FLOAT16_STEP = 32  # weights of a column in one tile
_INT4_STEP = 64
BLOCKS = (64, 128)  # weights of 4 bits
_LARGEST_HEAD = 512


class AmxLowering(OnnxRuntimeLowering):
    """As ONNX Runtime's, but for attention, and matrices of float16 and of 4 bits whose columns are whole steps."""

    def linear(self, graph: Graph, x: str, linear: Linear) -> str:
        """MatMulFloat16 or MatMulInt4; what its super class writes where columns are not made of whole steps."""
        weight, name, width = linear.weight, linear.name, whole_rows(linear.width)
        if isinstance(weight, Int4Matrix) and is_whole(weight.columns, weight.block_size):
            parts = [graph.weight(f"{name}.codes", int4_tiles(weight))]
            parts.append(graph.weight(f"{name}.scales", int4_scales(weight)))
            operator, attributes = "MatMulInt4", {"K": weight.columns, "block_size": weight.block_size}
        elif isinstance(weight, np.ndarray) and is_whole(weight.shape[1]):
            parts = [graph.weight(f"{name}.weight", float16_tiles(weight))]
            operator, attributes = "MatMulFloat16", {"K": weight.shape[1]}
        else:
            return super().linear(graph, x, linear)
        x = scaled_inputs(graph, self, x, linear)
        if linear.bias is not None:
            parts.append(self.constant(graph, f"{name}.bias", _with_whole_rows(linear.bias)))
        product = graph.node(f"{DOMAIN}.{operator}", [x, *parts], N=width, **attributes)
        if width != linear.width:
            product = graph.node("Slice", [product, graph.ints(0), graph.ints(linear.width), graph.ints(-1)])
        return add_zero_points(graph, self, x, product, name, weight) if isinstance(weight, Int4Matrix) else product

    def rms_norm(self, graph: Graph, x: str, scale: str, epsilon: float) -> str:
        """AddRmsNorm, without anything to add."""
        return graph.node(f"{DOMAIN}.AddRmsNorm", [x, scale], epsilon=epsilon)

    def add_rms_norm(self, graph: Graph, x: str, residual: str, scale: str, epsilon: float) -> tuple[str, str]:
        """AddRmsNorm."""
        normed, total = graph.nodes(f"{DOMAIN}.AddRmsNorm", [x, scale, residual], 2, epsilon=epsilon)
        return normed, total

    def gated(self, graph: Graph, gate_up: str, kind: str) -> str:
        """GateSilu, or what its super class writes for other activations."""
        if kind != "silu":
            return super().gated(graph, gate_up, kind)
        return graph.node(f"{DOMAIN}.GateSilu", [gate_up])

    def causal_attention(self, graph: Graph, qkv: str, layer: int, sizes: CausalAttention) -> str:
        """CausalAttention over a cache of float16, or GroupQueryAttention where heads are not made of whole tiles."""
        if not _is_whole_head(sizes.head_dim):
            return super().causal_attention(graph, qkv, layer, sizes)
        inputs, outputs = self.cache(graph, layer, sizes, "float16")
        return graph.nodes(
            f"{DOMAIN}.CausalAttention",
            [qkv, *inputs],
            outputs,
            num_heads=sizes.num_heads,
            kv_num_heads=sizes.num_kv_heads,
        )[0]


class AmxInt8CacheLowering(AmxLowering):
    """The same with ONNX Runtime's attention, which keeps keys and values in 8 bits."""

    causal_attention = OnnxRuntimeLowering.causal_attention


def cache_dtype(head_dim: int) -> str:
    """The type of keys and values that are kept as they are computed."""
    return "float16" if _is_whole_head(head_dim) else OnnxRuntimeLowering.dtype


def float16_tiles(weight: NDArray[np.float16]) -> NDArray[np.float16]:
    """(N, K) as (N / 16, K / 32, 16, 32): two neighbours along K beside those of the next column."""
    tiles: NDArray[np.float16] = _by_columns(weight, _FLOAT16_STEP, 2)
    return tiles


def int4_tiles(weight: Int4Matrix) -> NDArray[np.uint8]:
    """Codes (N, K) as (N / 16, K / 64, 8, 64), two a byte: of a step's 64, the first 32 in the low nibbles."""
    codes = weight.packed.reshape(weight.rows, -1)
    codes = np.stack([codes & 0x0F, codes >> 4], axis=-1).reshape(weight.rows, -1)
    tiles = _by_columns(codes, _INT4_STEP, 4)
    packed: NDArray[np.uint8] = tiles[:, :, :8] | tiles[:, :, 8:] << np.uint8(4)
    return packed


def int4_scales(weight: Int4Matrix) -> NDArray[np.float16]:
    """Scales (N, blocks) as (N / 16, blocks, 16)."""
    padded = _with_whole_rows(weight.scales)
    scales: NDArray[np.float16] = padded.reshape(len(padded) // _SLICE, _SLICE, -1).transpose(0, 2, 1)
    return scales


def _by_columns(weight: NDArray[Any], step: int, neighbours: int) -> NDArray[Any]:
    """(N, K) as (N / 16, K / step, step / neighbours, 16 * neighbours), N rounded up to whole pairs of tiles."""
    weight = _with_whole_rows(weight)
    rows, columns = weight.shape
    tiles = weight.reshape(rows // _SLICE, _SLICE, columns // step, step // neighbours, neighbours)
    ordered: NDArray[Any] = tiles.transpose(0, 2, 3, 1, 4)
    return ordered.reshape(rows // _SLICE, columns // step, step // neighbours, -1)


def _is_whole_head(head_dim: int) -> bool:
    return head_dim % _PAIR == 0 and head_dim <= _LARGEST_HEAD


def is_whole(columns: int, block_size: int | None = None) -> bool:
    """Whether a matrix' columns are whole steps, and its blocks of 4 bits too."""
    is_int4 = block_size is not None
    return columns % (_INT4_STEP if is_int4 else _FLOAT16_STEP) == 0 and (not is_int4 or block_size in BLOCKS)


def whole_rows(rows: int) -> int:
    """Rows that are stored: whole pairs of tiles."""
    return -(-rows // _PAIR) * _PAIR


def _with_whole_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Zeros behind the last row, up to a whole pair of tiles."""
    return np.pad(array, [(0, whole_rows(len(array)) - len(array))] + [(0, 0)] * (array.ndim - 1))
