"""Reads what settings say of a decoder's attention, and refuses what no engine has: heads and rotary embedding."""

from __future__ import annotations

from edge_runtime.bundle.manifest import ROTARY_SCALINGS, RotarySpec
from edge_runtime.errors import CheckpointError
from engines.families.base import Settings

_HEAD_MULTIPLE = 16  # of ONNX Runtime's GroupQueryAttention, where it turns heads


def check_heads(text: Settings, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Refuse heads that an engine would only refuse at the first inference.

    Raises:
        CheckpointError: the sizes of heads do not fit to each other, or no engine has them.
    """
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"{text.where}: num_attention_heads is {num_heads}, no multiple of num_key_value_heads {num_kv_heads}"
        )
    if head_dim % _HEAD_MULTIPLE:
        raise CheckpointError(
            f"{text.where}: heads are {head_dim} wide (head_dim, or hidden_size over num_attention_heads); engines "
            f"have multiples of {_HEAD_MULTIPLE}"
        )


def read_rotary(text: Settings, head_dim: int) -> RotarySpec:
    """The rotary embedding, from where either generation of transformers keeps it.

    Raises:
        CheckpointError: it scales positions in a way that isn't supported, or a number of it is missing or malformed.
    """
    rope = text.below("rope_parameters" if text.values.get("rope_parameters") else "rope_scaling")
    scaling = rope.choice("type" if "type" in rope.values else "rope_type", "default", (*ROTARY_SCALINGS, "dynamic"))
    theta = rope.number("rope_theta", text.number("rope_theta", 10000.0))
    if scaling in ("default", "dynamic"):  # dynamic: scaled beyond max_position_embeddings alone, where no bundle goes
        return RotarySpec(theta, head_dim)
    if "factor" not in rope.values:
        raise CheckpointError(f"{rope.where}: factor is missing, by which {scaling} scales positions")
    factor = rope.number("factor", 1.0)
    if scaling == "linear":
        return RotarySpec(theta, head_dim, scaling, factor)
    return RotarySpec(
        theta,
        head_dim,
        scaling,
        factor,
        rope.number("low_freq_factor", 1.0),
        rope.number("high_freq_factor", 4.0),
        rope.size("original_max_position_embeddings", 8192),
    )
