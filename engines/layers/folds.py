"""Where scales of input channels go in CLIP's vision tower and LLaMA's decoder; knows their wiring, no numbers.

A matrix's columns may be multiplied where its inputs are divided alike, which costs nothing if a norm, or the rows of
the matrix before, can take the division. Behind a GELU nothing can; behind LLaMA's gate it is up_proj that does.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from engines.layers.decoder import LlamaConfig
from engines.quantize.methods.fold import Producers, head_producers


@dataclass(frozen=True)
class Fold:
    """What makes the input channels of a matrix, and so can divide them."""

    matrix: str  # as emitters name it: Q, K and V are one
    vectors: tuple[str, ...]  # tensors with an entry a channel: a norm's weight and bias, the bias of the matrix before
    rows: str | None = None  # the weight of the matrix before
    producers: Producers | None = None  # which row of that makes which channel; None: one each, in order


def vit_folds(prefix: str, num_layers: int) -> Iterator[Fold]:
    """Those of the first ``num_layers`` layers."""
    for i in range(num_layers):
        layer = f"{prefix}encoder.layers.{i}."
        attention = f"{layer}self_attn."
        yield Fold(f"{attention}out_proj", (f"{attention}v_proj.bias",), f"{attention}v_proj.weight")
        yield Fold(f"{attention}qkv_proj", (f"{layer}layer_norm1.weight", f"{layer}layer_norm1.bias"))
        yield Fold(f"{layer}mlp.fc1", (f"{layer}layer_norm2.weight", f"{layer}layer_norm2.bias"))


def decoder_folds(llama: LlamaConfig, prefix: str, layers: tuple[int, int]) -> Iterator[Fold]:
    """Those of the layers ``[first, end)``."""
    heads = head_producers(llama.num_heads, llama.num_kv_heads, llama.head_dim)
    for i in range(*layers):
        layer = f"{prefix}layers.{i}."
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        yield Fold(f"{attention}o_proj", (f"{attention}v_proj.bias",), f"{attention}v_proj.weight", heads)
        yield Fold(f"{mlp}down_proj", (f"{mlp}up_proj.bias",), f"{mlp}up_proj.weight")
        yield Fold(f"{attention}qkv_proj", (f"{layer}input_layernorm.weight",))
        yield Fold(f"{mlp}gate_up_proj", (f"{layer}post_attention_layernorm.weight",))


def with_known_vectors(folds: Iterator[Fold], known: Container[str]) -> tuple[Fold, ...]:
    """The folds without the biases that a model doesn't have."""
    return tuple(replace(fold, vectors=tuple(name for name in fold.vectors if name in known)) for fold in folds)
