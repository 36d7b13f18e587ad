"""The model that all peers run: its sizes, and its layers as lists of matrices; random bytes stand for weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.families.llava import read_config
from engines.families.synthetic import SYNTHETIC_CONFIGS, SyntheticCheckpoint, synthetic_checkpoint
from engines.layers.decoder import LlamaConfig

_SPREAD = 1 / 64  # of dequantized weights, about what keeps hidden states finite through all layers


@dataclass(frozen=True)
class Matrix:
    """One matrix of a decoder layer, by its name in Hugging Face's LLaMA."""

    name: str
    rows: int
    columns: int


def checkpoint_of(model: str, layers: int | None) -> SyntheticCheckpoint:
    """``synthetic:MODEL``, whose decoder has only so many ``layers``; None for all of its own."""
    config = SYNTHETIC_CONFIGS[model]
    if layers is None:
        return synthetic_checkpoint(model, config)
    shallow = {**config, "text_config": {**config["text_config"], "num_hidden_layers": layers}}
    return synthetic_checkpoint(f"{model}-{layers}-layers", shallow)


def llama_of(model: str, layers: int | None) -> LlamaConfig:
    """The decoder's sizes."""
    llama = read_config(SYNTHETIC_CONFIGS[model], {}).llama
    return replace(llama, num_layers=layers or llama.num_layers)


def vision_config_of(model: str) -> Mapping[str, Any]:
    """The vision tower's settings, as in ``config.json``."""
    vision: Mapping[str, Any] = SYNTHETIC_CONFIGS[model]["vision_config"]
    return vision


def layer_matrices(llama: LlamaConfig) -> list[Matrix]:
    """The matrices of one layer, in the order in which they are used."""
    width, inner, kv = llama.hidden_size, llama.intermediate_size, llama.num_kv_heads * llama.head_dim
    return [
        Matrix("self_attn.q_proj", llama.num_heads * llama.head_dim, width),
        Matrix("self_attn.k_proj", kv, width),
        Matrix("self_attn.v_proj", kv, width),
        Matrix("self_attn.o_proj", width, llama.num_heads * llama.head_dim),
        Matrix("mlp.gate_proj", inner, width),
        Matrix("mlp.up_proj", inner, width),
        Matrix("mlp.down_proj", width, inner),
    ]


def random_bytes(rng: np.random.Generator, *shape: int) -> NDArray[np.uint8]:
    """Codes of quantized weights."""
    return rng.integers(0, 256, shape, np.uint8)


def scales(dtype: Any, *shape: int) -> NDArray[Any]:
    """Scales that give weights of 4 bits a spread as of trained ones."""
    return np.full(shape, _SPREAD / 4, dtype)
