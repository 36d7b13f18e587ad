"""A LLaMA decoder of random weights in the form of onnxruntime-genai, at the choices of its own model builder.

Those are blocks of 32, integer arithmetic, the head in 4 bits too, and the embedding in float32. The operators are
those that our own bundles for ONNX Runtime consist of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from benchmarks.peers.shapes import random_bytes, scales
from engines.families.llava import Layout
from engines.families.synthetic import SyntheticCheckpoint
from engines.layers.decoder import DecoderGroup, LlamaConfig
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.weights import Linear, Weights
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix
from engines.quantize.recipe import FLOAT16

GRAPH, CONFIG = "model.onnx", "genai_config.json"
_BLOCK = 32
_WIRES = ("hidden_states", "seqlens_k", "total_sequence_length", "hidden_states_out")  # ends of a group, joined here


def write_genai(directory: Path, checkpoint: SyntheticCheckpoint, llama: LlamaConfig) -> None:
    """Write graph, weights and settings to ``directory``."""
    directory.mkdir()
    lowering = OnnxRuntimeLowering()
    weights = _RandomWeights(checkpoint, FLOAT16)
    decoder = weights.under(Layout.decoder)
    with Graph(directory / GRAPH) as graph:
        ids = graph.input("input_ids", "int64", (1, "T"))
        mask = graph.input("attention_mask", "int64", (1, "total"))
        table = np.random.default_rng(0).standard_normal((llama.vocab_size, llama.hidden_size), np.float32)
        graph.nodes("Gather", [graph.weight("embedding", table), ids], ["hidden_states"])
        total = graph.node("ReduceSum", [mask, graph.ints(1)], keepdims=0)
        last = graph.node("Sub", [total, graph.ints(1)])
        for name, tokens in (("seqlens_k", last), ("total_sequence_length", total)):
            graph.nodes("Cast", [tokens], [name], to=TensorProto.INT32)
        DecoderGroup(llama, 0, llama.num_layers).emit(graph, lowering, decoder)
        norm = lowering.constant(graph, "norm", decoder.vector("norm.weight"))
        normed = lowering.rms_norm(graph, "hidden_states_out", norm, llama.rms_norm_eps)
        logits = lowering.linear(graph, normed, weights.under(Layout.head).linear("lm_head"))
        graph.output("logits", "float32", (1, 1, llama.vocab_size), logits)
        graph.inputs = [spec for spec in graph.inputs if spec.name not in _WIRES]
        graph.outputs = [spec for spec in graph.outputs if spec.name not in _WIRES]
        graph.save()
    (directory / CONFIG).write_text(json.dumps(_config(llama), indent=1))


class _RandomWeights(Weights):
    """Codes at random in place of the checkpoint's matrices, which would have to be rounded first."""

    source: SyntheticCheckpoint

    def linear(self, name: str, *parts: str) -> Linear:
        """See :class:`Weights`."""
        shapes = [self.source.shape(f"{self.prefix}{part}.weight") for part in parts or (name,)]
        rows, blocks = sum(shape[0] for shape in shapes), shapes[0][1] // _BLOCK
        packed = random_bytes(np.random.default_rng(0), rows, blocks, _BLOCK // 2)
        return Linear(name, Int4Matrix(packed, scales(np.float16, rows, blocks), shapes[0][1], _BLOCK), None)


def embedding_bytes(llama: LlamaConfig) -> int:
    """Of the table, of which a token reads one row."""
    return 4 * llama.vocab_size * llama.hidden_size


def _config(llama: LlamaConfig) -> dict[str, Any]:
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    return {
        "model": {
            "type": "llama",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "context_length": llama.max_positions,
            "vocab_size": llama.vocab_size,
            "decoder": {
                "filename": GRAPH,
                "head_size": llama.head_dim,
                "hidden_size": llama.hidden_size,
                "num_attention_heads": llama.num_heads,
                "num_hidden_layers": llama.num_layers,
                "num_key_value_heads": llama.num_kv_heads,
                "session_options": {"provider_options": []},
                "inputs": {**inputs, "past_key_names": "past_key.%d", "past_value_names": "past_value.%d"},
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present_key.%d",
                    "present_value_names": "present_value.%d",
                },
            },
        },
        "search": {"max_length": llama.max_positions, "past_present_share_buffer": True},
    }
