"""The LLaMA decoder as ONNX graphs: groups of layers, and the head that turns hidden states into logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle.manifest import RotarySpec
from engines.layers.op_lowering import CausalAttention, OpLowering
from engines.layers.weights import Weights
from engines.onnx.builder import Graph

_END = np.iinfo(np.int64).max  # of any axis, in ONNX's Slice


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a LLaMA decoder."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rotary: RotarySpec
    activation: str
    has_query_key_norms: bool = False  # each head of queries and keys is normalized before it is turned


def emit_llama_group(
    graph: Graph, lowering: OpLowering, weights: Weights, config: LlamaConfig, layers: tuple[int, int]
) -> None:
    """Emit layers ``[first, end)``: ``hidden_states`` (1, T, D) to ``hidden_states_out``, with the caches between.

    The model's last layer puts out (1, 1, D), the last row alone: keys and values are there for all rows, and of the
    others nothing is read. In a decoder of 4 layers, that is a seventh of prefill.
    Weights are named as in Hugging Face's ``LlamaModel``.
    """
    first, end = layers
    sizes = _attention_sizes(config)

    def norm(layer: int, name: str) -> str:
        name = f"layers.{layer}.{name}.weight"
        return lowering.constant(graph, name, weights.vector(name))

    eps = config.rms_norm_eps
    hidden = graph.input("hidden_states", lowering.dtype, (1, "T", config.hidden_size))
    normed = lowering.rms_norm(graph, hidden, norm(first, "input_layernorm"), eps)
    for i in range(first, end):
        attention, mlp = f"layers.{i}.self_attn.", f"layers.{i}.mlp."
        graph.scope = f"layers.{i}/"
        parts = (f"{attention}{part}_proj" for part in "qkv")
        qkv = lowering.linear(graph, normed, weights.linear(f"{attention}qkv_proj", *parts))
        if config.has_query_key_norms:
            qkv = _norm_heads(graph, lowering, weights, config, qkv, attention)
        context = lowering.causal_attention(graph, qkv, i, sizes)
        if i + 1 == config.num_layers:
            context, hidden = _last_row(graph, context), _last_row(graph, hidden)
        attended = lowering.linear(graph, context, weights.linear(f"{attention}o_proj"))
        normed, hidden = lowering.add_rms_norm(graph, attended, hidden, norm(i, "post_attention_layernorm"), eps)
        parts = (f"{mlp}{part}_proj" for part in ("gate", "up"))
        gate_up = lowering.linear(graph, normed, weights.linear(f"{mlp}gate_up_proj", *parts))
        inner = lowering.gated(graph, gate_up, config.activation)
        outer = lowering.linear(graph, inner, weights.linear(f"{mlp}down_proj"))
        if i + 1 < end:
            normed, hidden = lowering.add_rms_norm(graph, outer, hidden, norm(i + 1, "input_layernorm"), eps)
        else:
            hidden = graph.node("Add", [outer, hidden])
    graph.scope = ""
    rows = 1 if end == config.num_layers else "T"
    graph.output("hidden_states_out", lowering.dtype, (1, rows, config.hidden_size), hidden)


def emit_llama_head(
    graph: Graph, lowering: OpLowering, weights: Weights, config: LlamaConfig, *, norm: str, head: str
) -> None:
    """Emit the final norm and the vocabulary's projection: ``hidden_states`` (1, T, D) to ``logits`` (1, T, V).

    ``head`` names the projection, which may be the embedding's own matrix, or a part of its rows: V is their number.
    """
    hidden = graph.input("hidden_states", lowering.dtype, (1, "T", config.hidden_size))
    scale = lowering.constant(graph, "norm.weight", weights.vector(f"{norm}.weight"))
    normed = lowering.rms_norm(graph, hidden, scale, config.rms_norm_eps)
    linear = weights.linear(head)
    logits = lowering.linear(graph, normed, linear)
    graph.output("logits", "float32", (1, "T", linear.width), lowering.to_float32(graph, logits))


def _norm_heads(
    graph: Graph, lowering: OpLowering, weights: Weights, config: LlamaConfig, qkv: str, attention: str
) -> str:
    """Queries and keys (1, T, (H + 2 Hkv) d), each head normalized by its root mean square, values as they are."""
    size, heads = config.head_dim, (config.num_heads, config.num_kv_heads)
    parts = graph.nodes("Split", [qkv, graph.ints(*(count * size for count in (*heads, heads[1])))], 3, axis=-1)
    normed = []
    for part, count, name in zip(parts, heads, ("q_norm", "k_norm"), strict=False):
        name = f"{attention}{name}.weight"
        rows = graph.node("Reshape", [part, graph.ints(1, -1, size)])  # (1, T H, d)
        rows = lowering.rms_norm(graph, rows, lowering.constant(graph, name, weights.vector(name)), config.rms_norm_eps)
        normed.append(graph.node("Reshape", [rows, graph.ints(1, -1, count * size)]))
    return graph.node("Concat", [*normed, parts[2]], axis=-1)


def _last_row(graph: Graph, x: str) -> str:
    return graph.node("Slice", [x, graph.ints(-1), graph.ints(_END), graph.ints(1)])  # (1, T, D) to (1, 1, D)


def _attention_sizes(config: LlamaConfig) -> CausalAttention:
    return CausalAttention(config.num_heads, config.num_kv_heads, config.head_dim)
