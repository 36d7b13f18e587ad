"""The tensors of CLIP's vision tower and LLaMA's decoder, by the names and shapes that transformers gives them."""

from __future__ import annotations

from dataclasses import dataclass

from engines.layers.decoder import LlamaConfig
from engines.layers.vision_tower import VitConfig


@dataclass(frozen=True)
class Parameter:
    """One tensor's shape; matrices are stored at the planned precision, everything else in float16."""

    shape: tuple[int, ...]
    is_matrix: bool = False


def vit_parameters(vit: VitConfig, inner: int, prefix: str, num_layers: int) -> dict[str, Parameter]:
    """Embeddings and the first ``num_layers`` layers, whose perceptrons are ``inner`` wide."""
    width = vit.hidden_size
    positions = (vit.image_size // vit.patch_size) ** 2 + 1
    parameters = {
        "embeddings.class_embedding": Parameter((width,)),
        "embeddings.patch_embedding.weight": Parameter((width, 3, vit.patch_size, vit.patch_size), is_matrix=True),
        "embeddings.position_embedding.weight": Parameter((positions, width)),
        "pre_layrnorm.weight": Parameter((width,)),
        "pre_layrnorm.bias": Parameter((width,)),
    }
    for i in range(num_layers):
        layer = f"encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            parameters[f"{layer}{norm}.weight"] = parameters[f"{layer}{norm}.bias"] = Parameter((width,))
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            parameters.update(linear_parameters(f"{layer}self_attn.{name}", width, width, bias=True))
        parameters.update(linear_parameters(f"{layer}mlp.fc1", inner, width, bias=True))
        parameters.update(linear_parameters(f"{layer}mlp.fc2", width, inner, bias=True))
    return {prefix + name: parameter for name, parameter in parameters.items()}


def embedding_parameters(llama: LlamaConfig, prefix: str) -> dict[str, Parameter]:
    """One row a token."""
    return linear_parameters(f"{prefix}embed_tokens", llama.vocab_size, llama.hidden_size)


def decoder_parameters(llama: LlamaConfig, prefix: str, layers: tuple[int, int]) -> dict[str, Parameter]:
    """The layers ``[first, end)``."""
    width, inner = llama.hidden_size, llama.intermediate_size
    queries, keys = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    parameters: dict[str, Parameter] = {}
    for i in range(*layers):
        layer = f"{prefix}layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            parameters[f"{layer}{norm}.weight"] = Parameter((width,))
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            parameters.update(linear_parameters(f"{layer}self_attn.{name}", rows, width))
        parameters.update(linear_parameters(f"{layer}self_attn.o_proj", width, queries))
        for name in ("q_norm", "k_norm") if llama.has_query_key_norms else ():
            parameters[f"{layer}self_attn.{name}.weight"] = Parameter((llama.head_dim,))
        for name in ("gate_proj", "up_proj"):
            parameters.update(linear_parameters(f"{layer}mlp.{name}", inner, width))
        parameters.update(linear_parameters(f"{layer}mlp.down_proj", width, inner))
    return parameters


def head_parameters(llama: LlamaConfig, prefix: str, head: str) -> dict[str, Parameter]:
    """The final norm, and the projection to the vocabulary under the name ``head``."""
    width = llama.hidden_size
    return {f"{prefix}norm.weight": Parameter((width,)), **linear_parameters(head, llama.vocab_size, width)}


def linear_parameters(name: str, rows: int, columns: int, *, bias: bool = False) -> dict[str, Parameter]:
    """A matrix (rows, columns), and its bias where it has one."""
    weight = {f"{name}.weight": Parameter((rows, columns), is_matrix=True)}
    return {**weight, f"{name}.bias": Parameter((rows,))} if bias else weight
