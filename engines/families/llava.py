"""LLaVA 1.5: a CLIP vision tower, a two-layer connector and a LLaMA decoder; knows their names and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import (
    ImageSpec,
    ModelSpec,
    PositionSpec,
    prompt_around_image,
)
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.report import REGION_STEPS
from edge_runtime.reports.schema import BRIDGE
from engines.checkpoint import Checkpoint
from engines.families.attention_settings import check_heads, read_rotary
from engines.families.base import ImageOptions, Model, Part, Settings, VisionWork, part_of
from engines.families.chat_template import inspection_prompt
from engines.families.image_processor import read_single_image
from engines.layers.connector import Connector
from engines.layers.decoder import DecoderGroup, LlamaConfig, LmHead, decoder_layer
from engines.layers.mlp import Mlp
from engines.layers.norm import Norm
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection, numbers_in, projection
from engines.layers.vision_tower import VitConfig, clip_tower

INSTRUCTION = BRIDGE.instruction(REGION_STEPS)  # until a build asks for another schema
DEFAULT_PROMPT = prompt_around_image(f"USER: {INSTRUCTION}\n", "\nASSISTANT:")


@dataclass(frozen=True)
class DecoderKind:
    """In what a decoder of LLaMA's kin differs from it, and what its settings are where ``config.json`` is silent."""

    has_query_key_norms: bool = False
    has_qkv_biases: bool = False
    head_dim: int | None = None  # None: the width over the number of heads
    intermediate_size: int = 11008
    vocab_size: int = 32000
    max_positions: int = 2048


_QWEN = DecoderKind(intermediate_size=22016, vocab_size=151936, max_positions=32768)
DECODERS: Mapping[str, DecoderKind] = {
    "llama": DecoderKind(),
    "qwen2": replace(_QWEN, has_qkv_biases=True),
    "qwen3": replace(_QWEN, has_query_key_norms=True, head_dim=128),
}


@dataclass(frozen=True)
class Layout:
    """Where a checkpoint keeps its parts: the beginnings of tensors' names. They changed between library versions."""

    vision: str = "vision_tower.vision_model."
    connector: str = "multi_modal_projector."
    decoder: str = "language_model.model."
    head: str = "language_model.lm_head"
    embedding: str = "language_model.model.embed_tokens"


@dataclass(frozen=True)
class LlavaConfig:
    """``config.json``, read and checked."""

    vit: VitConfig
    llama: LlamaConfig
    connector_activation: str
    connector_bias: bool
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int


def read_llava(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A LLaVA checkpoint in any of the layouts that Hugging Face has used, tied embeddings included.

    Raises:
        CheckpointError: it is no LLaVA, or one with a part that isn't supported.
    """
    config = read_config(checkpoint.config, checkpoint.generation_config)
    vit = config.vit
    image = read_single_image(checkpoint.image_processor, vit.image_size, vit.num_features, options)
    return llava_model(checkpoint, config, image, group_parameters)


def llava_model(
    checkpoint: Checkpoint,
    config: LlavaConfig,
    image: ImageSpec,
    group_parameters: int,
    family: str = "llava",
    newline: str | None = None,
) -> Model:
    """The model of ``config`` that sees frames as ``image`` says; ``newline`` is the tensor behind rows of tiles.

    Raises:
        CheckpointError: the checkpoint lacks a part.
    """
    layout = _find_layout(checkpoint)
    llama = config.llama
    return Model(
        family=family,
        spec=spec_of(llama, config.bos_token_id, config.eos_token_ids, config.image_token_id),
        image=image,
        prompt=inspection_prompt(checkpoint, INSTRUCTION, config.image_token_id, DEFAULT_PROMPT),
        positions=PositionSpec("sequential", llama.rotary),
        parts=_parts(checkpoint, config, layout, group_parameters, newline),
        vision=vision_work(config.vit, image.max_tensors),
    )


def spec_of(llama: LlamaConfig, bos_token_id: int, eos_token_ids: tuple[int, ...], image_token_id: int) -> ModelSpec:
    """Sizes and special tokens of the language model."""
    return ModelSpec(
        hidden_size=llama.hidden_size,
        num_layers=llama.num_layers,
        num_heads=llama.num_heads,
        num_kv_heads=llama.num_kv_heads,
        head_dim=llama.head_dim,
        vocab_size=llama.vocab_size,
        max_positions=llama.max_positions,
        bos_token_id=bos_token_id,
        eos_token_ids=eos_token_ids,
        image_token_id=image_token_id,
    )


def vision_work(vit: VitConfig, tiles: int) -> VisionWork:
    """What it takes to see so many tiles, one after another."""
    rows = vit.num_rows
    return VisionWork(
        rows=tiles * rows,
        at_a_time=(rows, vit.hidden_size),
        attention_operations=tiles * 4 * rows**2 * vit.hidden_size * vit.num_layers,
    )


def read_config(values: Mapping[str, object], generation: Mapping[str, object]) -> LlavaConfig:
    """The settings, with the defaults of ``LlavaConfig``, ``CLIPVisionConfig`` and ``LlamaConfig`` in transformers.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    settings = Settings(values)
    vision, text = settings.below("vision_config"), settings.below("text_config")
    vision.choice("model_type", "clip_vision_model", ("clip_vision_model",))
    decoder = text.choice("model_type", "llama", ("llama", "qwen3"))

    all_layers = vision.size("num_hidden_layers", 12)
    select = settings.choice("vision_feature_select_strategy", "default", ("default", "full"))
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 2))
    return LlavaConfig(
        vit=VitConfig(
            image_size=vision.size("image_size", 224),
            patch_size=vision.size("patch_size", 32),
            hidden_size=vision.size("hidden_size", 768),
            intermediate_size=vision.size("intermediate_size", 3072),
            all_layers=all_layers,
            num_heads=vision.size("num_attention_heads", 12),
            feature_layers=_feature_layers(values, all_layers),
            activation=vision.choice("hidden_act", "quick_gelu", ("quick_gelu", "gelu")),
            layer_norm_eps=vision.number("layer_norm_eps", 1e-5),
            keep_class_token=select == "full",
        ),
        llama=read_llama(text, decoder),
        connector_activation=settings.choice("projector_hidden_act", "gelu", ("gelu",)),
        connector_bias=settings.flag("multimodal_projector_bias", True),
        bos_token_id=text.integer("bos_token_id", 1),
        eos_token_ids=token_ids(eos),
        image_token_id=settings.integer("image_token_id" if "image_token_id" in values else "image_token_index", 32000),
    )


def read_llama(text: Settings, kind: str) -> LlamaConfig:
    """The settings of a decoder of LLaMA's kin, with the defaults that transformers gives it.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    known = DECODERS[kind]
    if text.flag("use_sliding_window", False):
        raise CheckpointError(f"{text.where}: use_sliding_window is true; supported: false, to see everything")
    hidden_size, num_heads = text.size("hidden_size", 4096), text.size("num_attention_heads", 32)
    head_dim = text.size("head_dim", known.head_dim or max(hidden_size // num_heads, 1))
    num_kv_heads = text.size("num_key_value_heads", num_heads)
    check_heads(text, num_heads, num_kv_heads, head_dim)
    return LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=text.size("intermediate_size", known.intermediate_size),
        num_layers=text.size("num_hidden_layers", 32),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=text.size("vocab_size", known.vocab_size),
        max_positions=text.size("max_position_embeddings", known.max_positions),
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        rotary=read_rotary(text, head_dim),
        activation=text.choice("hidden_act", "silu", ("silu",)),
        has_query_key_norms=known.has_query_key_norms,
        has_qkv_biases=known.has_qkv_biases,
    )


def _feature_layers(values: Mapping[str, Any], all_layers: int) -> tuple[int, ...]:
    """Numbers of the layers whose outputs are features, from indices of hidden states, the first of which is before any
    layer."""
    chosen = values.get("vision_feature_layer", -2)
    indices = chosen if isinstance(chosen, list) else [chosen]
    if not indices or not all(type(index) is int for index in indices):
        raise CheckpointError(f"config.json: vision_feature_layer is {chosen!r}; expected a number, or a list of them")
    layers = tuple(index if index >= 0 else all_layers + 1 + index for index in indices)
    if not all(0 < layer <= all_layers for layer in layers):
        raise CheckpointError(f"config.json: vision_feature_layer is {chosen}, of {all_layers} layers")
    return layers


def checkpoint_parameters(config: LlavaConfig, layout: Layout) -> dict[str, Parameter]:
    """Every tensor of a whole checkpoint, also those after the chosen vision layer, which no component takes."""
    vit, llama = config.vit, config.llama
    tower, after = clip_tower(vit, vit.all_layers), Norm("post_layernorm", vit.hidden_size, 1.0, has_mean=True)
    return {
        **under(layout.vision, tower.parameters()),
        **under(layout.vision, after.parameters()),
        **_connector(config, layout).parameters(),
        **embedding_matrix(layout.embedding, llama).parameters(),
        **under(layout.decoder, DecoderGroup(llama, 0, llama.num_layers).parameters()),
        **lm_head(config.llama, layout.decoder, layout.head).parameters(),
    }


def _find_layout(checkpoint: Checkpoint) -> Layout:
    """The layout by names that only one tensor ends with."""

    def prefix(ending: str) -> str | None:
        return prefix_before(checkpoint, ending)

    vision, decoder = prefix("embeddings.class_embedding"), prefix("layers.0.input_layernorm.weight")
    connector = prefix("linear_1.weight")
    if vision is None or decoder is None or connector is None:
        raise CheckpointError(
            f"{checkpoint.name} lacks a vision tower, a connector or a decoder under the names LLaVA gives them; "
            "expected a model saved by transformers' LlavaForConditionalGeneration"
        )
    head, embedding = find_head(checkpoint)
    return Layout(vision, connector, decoder, head, embedding)


def prefix_before(checkpoint: Checkpoint, ending: str) -> str | None:
    """What stands before ``ending`` in the only tensor's name that ends with it; None where there is not one."""
    found = [name for name in checkpoint if name.endswith(ending)]
    return found[0].removesuffix(ending) if len(found) == 1 else None


def find_head(checkpoint: Checkpoint, is_tied: bool = False) -> tuple[str, str]:
    """Names of the head's matrix and the embedding's.

    They are one matrix where the settings say so (``is_tied`` where they are silent) and only one of the two is there,
    whichever it is.

    Raises:
        CheckpointError: one is missing.
    """
    above, below = prefix_before(checkpoint, "lm_head.weight"), prefix_before(checkpoint, "embed_tokens.weight")
    head = None if above is None else f"{above}lm_head"
    embedding = None if below is None else f"{below}embed_tokens"
    settings = Settings(checkpoint.config)
    if settings.flag("tie_word_embeddings", is_tied) or settings.below("text_config").flag(
        "tie_word_embeddings", False
    ):
        head, embedding = head or embedding, embedding or head
    if head is None or embedding is None:
        missing, other = ("lm_head", "embedding") if head is None else ("embed_tokens", "head")
        raise CheckpointError(
            f"{checkpoint.name} holds no {missing}.weight, and its config.json does not say that the {other} serves "
            "for both (tie_word_embeddings); is it the whole checkpoint? AutoModel saves no head: save it by "
            "AutoModelForImageTextToText"
        )
    return head, embedding


def _parts(
    checkpoint: Checkpoint, config: LlavaConfig, layout: Layout, group_parameters: int, newline: str | None
) -> tuple[Part, ...]:
    llama = config.llama
    return (
        part_of(checkpoint, "vision_encoder", clip_tower(config.vit), layout.vision),
        part_of(checkpoint, "connector", _connector(config, layout, newline)),
        Part("embedding", "embedding", None, embedding_matrix(layout.embedding, llama).parameters(), None),
        *decoder_parts(checkpoint, llama, layout.decoder, group_parameters),
        part_of(checkpoint, "lm_head", lm_head(config.llama, layout.decoder, layout.head)),
    )


def _connector(config: LlavaConfig, layout: Layout, newline: str | None = None) -> Connector:
    width, has_bias = config.llama.hidden_size, config.connector_bias
    first = projection(f"{layout.connector}linear_1", width, config.vit.feature_width, has_bias=has_bias)
    second = projection(f"{layout.connector}linear_2", width, width, has_bias=has_bias)
    return Connector(config.vit.num_features, Mlp(first, second, config.connector_activation), newline)


def lm_head(llama: LlamaConfig, decoder: str, head: str) -> LmHead:
    """The final norm, whose name begins with ``decoder``, and the matrix that is called ``head``."""
    return LmHead(Norm(f"{decoder}norm", llama.hidden_size, llama.rms_norm_eps), embedding_matrix(head, llama))


def embedding_matrix(name: str, llama: LlamaConfig) -> Projection:
    """One row a token: the embedding, or the head."""
    return projection(name, llama.vocab_size, llama.hidden_size)


def decoder_parts(checkpoint: Checkpoint, llama: LlamaConfig, prefix: str, group_parameters: int) -> Iterator[Part]:
    """The decoder's layers in groups of up to ``group_parameters`` numbers, one layer at least."""
    step = max(group_parameters // numbers_in(decoder_layer(llama, 0).parameters()), 1)
    for index, first in enumerate(range(0, llama.num_layers, step)):
        end = min(first + step, llama.num_layers)
        group = DecoderGroup(llama, first, end)
        yield part_of(checkpoint, f"decoder.{index:02d}", group, prefix, role="decoder", layers=(first, end))


def token_ids(value: object) -> tuple[int, ...]:
    """One token's number or a list of them, as generation settings have either.

    Raises:
        CheckpointError: it is neither.
    """
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(type(i) is int for i in ids):
        raise CheckpointError(f"eos_token_id is {value!r}; expected a token's number, or a list of them")
    return tuple(ids)


def stop_tokens(tokenizer: Tokenizer, ids: tuple[int, ...], turn_end: str) -> tuple[int, ...]:
    """The tokens that end an answer: ``ids`` of the settings, and the one that ends a turn of a conversation.

    Settings that were copied from a base model know the end of a text only.
    """
    end = tokenizer.token_to_id(turn_end)
    return ids if end is None or end in ids else (*ids, end)
