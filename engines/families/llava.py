"""LLaVA 1.5: a CLIP vision tower, a two-layer connector and a LLaMA decoder; knows their names and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.bundle.manifest import (
    ImageSpec,
    ModelSpec,
    PositionSpec,
    prompt_around_image,
)
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.report import ACTIONS, DEFECT_CLASSES, SEVERITIES
from engines.checkpoint import Checkpoint
from engines.families.attention_settings import check_heads, read_rotary
from engines.families.base import ImageOptions, Model, Part, Settings, VisionWork
from engines.families.chat_template import inspection_prompt
from engines.families.image_processor import read_single_image
from engines.layers.connector import emit_connector
from engines.layers.decoder import LlamaConfig, emit_llama_group, emit_llama_head
from engines.layers.folds import Fold, decoder_folds, vit_folds, with_known_vectors
from engines.layers.parameters import (
    Parameter,
    decoder_parameters,
    embedding_parameters,
    head_parameters,
    linear_parameters,
    vit_parameters,
)
from engines.layers.vision_tower import VitConfig, emit_vit
from engines.layers.weights import Weights

_INSTRUCTION = (
    "Inspect the structure in this photograph. Answer with JSON: a list of findings, each with its "
    f"class ({', '.join(DEFECT_CLASSES)}), severity ({', '.join(SEVERITIES)}), region (x_min, y_min, x_max, y_max in "
    f"hundredths of the image), description, and action ({', '.join(ACTIONS)}). No defect: no findings."
)
DEFAULT_PROMPT = prompt_around_image(f"USER: {_INSTRUCTION}\n", "\nASSISTANT:")


_HAS_QUERY_KEY_NORMS = {"llama": False, "qwen3": True}  # decoders that differ in that alone


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
    vit_intermediate_size: int
    vit_all_layers: int  # those after the chosen one included
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
        spec=ModelSpec(
            hidden_size=llama.hidden_size,
            num_layers=llama.num_layers,
            num_heads=llama.num_heads,
            num_kv_heads=llama.num_kv_heads,
            head_dim=llama.head_dim,
            vocab_size=llama.vocab_size,
            max_positions=llama.max_positions,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            image_token_id=config.image_token_id,
        ),
        image=image,
        prompt=inspection_prompt(checkpoint, _INSTRUCTION, config.image_token_id, DEFAULT_PROMPT),
        positions=PositionSpec("sequential", llama.rotary),
        parts=_parts(checkpoint, config, layout, group_parameters, newline),
        vision=vision_work(config.vit, image.max_tensors),
    )


def vision_work(vit: VitConfig, tiles: int) -> VisionWork:
    """What it takes to see so many tiles, one after another."""
    rows = (vit.image_size // vit.patch_size) ** 2 + 1
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
    decoder = text.choice("model_type", "llama", tuple(_HAS_QUERY_KEY_NORMS))

    all_layers = vision.size("num_hidden_layers", 12)
    select = settings.choice("vision_feature_select_strategy", "default", ("default", "full"))
    hidden_size, num_heads = text.size("hidden_size", 4096), text.size("num_attention_heads", 32)
    head_dim = text.size("head_dim", max(hidden_size // num_heads, 1))
    num_kv_heads = text.size("num_key_value_heads", num_heads)
    check_heads(text, num_heads, num_kv_heads, head_dim)
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 2))
    return LlavaConfig(
        vit=VitConfig(
            image_size=vision.size("image_size", 224),
            patch_size=vision.size("patch_size", 32),
            hidden_size=vision.size("hidden_size", 768),
            num_heads=vision.size("num_attention_heads", 12),
            feature_layers=_feature_layers(values, all_layers),
            activation=vision.choice("hidden_act", "quick_gelu", ("quick_gelu", "gelu")),
            layer_norm_eps=vision.number("layer_norm_eps", 1e-5),
            keep_class_token=select == "full",
        ),
        vit_intermediate_size=vision.size("intermediate_size", 3072),
        vit_all_layers=all_layers,
        llama=LlamaConfig(
            hidden_size=hidden_size,
            intermediate_size=text.size("intermediate_size", 11008),
            num_layers=text.size("num_hidden_layers", 32),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            vocab_size=text.size("vocab_size", 32000),
            max_positions=text.size("max_position_embeddings", 2048),
            rms_norm_eps=text.number("rms_norm_eps", 1e-6),
            rotary=read_rotary(text, head_dim),
            activation=text.choice("hidden_act", "silu", ("silu",)),
            has_query_key_norms=_HAS_QUERY_KEY_NORMS[decoder],
        ),
        connector_activation=settings.choice("projector_hidden_act", "gelu", ("gelu",)),
        connector_bias=settings.flag("multimodal_projector_bias", True),
        bos_token_id=text.integer("bos_token_id", 1),
        eos_token_ids=token_ids(eos),
        image_token_id=settings.integer("image_token_id" if "image_token_id" in values else "image_token_index", 32000),
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
    width = config.vit.hidden_size
    return {
        **vit_parameters(config.vit, config.vit_intermediate_size, layout.vision, config.vit_all_layers),
        f"{layout.vision}post_layernorm.weight": Parameter((width,)),
        f"{layout.vision}post_layernorm.bias": Parameter((width,)),
        **_connector_parameters(config, layout.connector),
        **embedding_parameters(config.llama, layout.decoder),
        **decoder_parameters(config.llama, layout.decoder, (0, config.llama.num_layers)),
        **head_parameters(config.llama, layout.decoder, layout.head),
    }


def _find_layout(checkpoint: Checkpoint) -> Layout:
    """The layout by names that only one tensor ends with.

    Head and embedding are one matrix where the settings say so and only one of the two is there, whichever it is.
    """

    def prefix(ending: str) -> str | None:
        found = [name for name in checkpoint if name.endswith(ending)]
        return found[0].removesuffix(ending) if len(found) == 1 else None

    vision, decoder = prefix("embeddings.class_embedding"), prefix("layers.0.input_layernorm.weight")
    connector, above, below = prefix("linear_1.weight"), prefix("lm_head.weight"), prefix("embed_tokens.weight")
    if vision is None or decoder is None or connector is None:
        raise CheckpointError(
            f"{checkpoint.name} lacks a vision tower, a connector or a decoder under the names LLaVA gives them; "
            "expected a model saved by transformers' LlavaForConditionalGeneration"
        )
    head = None if above is None else f"{above}lm_head"
    embedding = None if below is None else f"{below}embed_tokens"
    settings = Settings(checkpoint.config)
    if settings.flag("tie_word_embeddings", False) or settings.below("text_config").flag("tie_word_embeddings", False):
        head, embedding = head or embedding, embedding or head
    if head is None or embedding is None:
        missing, other = ("lm_head", "embedding") if head is None else ("embed_tokens", "head")
        raise CheckpointError(
            f"{checkpoint.name} holds no {missing}.weight, and its config.json does not say that the {other} serves "
            "for both (tie_word_embeddings); is it the whole checkpoint? AutoModel saves no head: save it by "
            "AutoModelForImageTextToText"
        )
    return Layout(vision, connector, decoder, head, embedding)


def _parts(
    checkpoint: Checkpoint, config: LlavaConfig, layout: Layout, group_parameters: int, newline: str | None
) -> tuple[Part, ...]:
    vit, llama, head = config.vit, config.llama, layout.head

    def decoder_part(index: int, layers: tuple[int, int]) -> Part:
        parameters = decoder_parameters(config.llama, layout.decoder, layers)
        biases = _optional_biases(checkpoint, parameters)
        return Part(
            f"decoder.{index:02d}",
            "decoder",
            layers,
            {**parameters, **biases},
            lambda graph, lowering, source, precision: emit_llama_group(
                graph, lowering, Weights(source, precision, layout.decoder), llama, layers
            ),
            folds=with_known_vectors(decoder_folds(llama, layout.decoder, layers), checkpoint),
        )

    return (
        Part(
            "vision_encoder",
            "vision_encoder",
            None,
            vit_parameters(vit, config.vit_intermediate_size, layout.vision, vit.num_layers),
            lambda graph, lowering, source, precision: emit_vit(
                graph, lowering, Weights(source, precision, layout.vision), vit
            ),
            folds=with_known_vectors(vit_folds(layout.vision, vit.num_layers), checkpoint),
        ),
        Part(
            "connector",
            "connector",
            None,
            {
                **_connector_parameters(config, layout.connector),
                **({newline: Parameter((llama.hidden_size,))} if newline else {}),
            },
            lambda graph, lowering, source, precision: emit_connector(
                graph,
                lowering,
                Weights(source, precision, layout.connector),
                newline=Weights(source, precision).vector(newline) if newline else None,
                rows=vit.num_features,
                width_in=vit.feature_width,
                width_out=llama.hidden_size,
                activation=config.connector_activation,
            ),
        ),
        Part(
            "embedding",
            "embedding",
            None,
            linear_parameters(layout.embedding, llama.vocab_size, llama.hidden_size),
            None,
        ),
        *(decoder_part(index, layers) for index, layers in enumerate(_layer_groups(config, group_parameters))),
        Part(
            "lm_head",
            "lm_head",
            None,
            head_parameters(config.llama, layout.decoder, head),
            lambda graph, lowering, source, precision: emit_llama_head(
                graph, lowering, Weights(source, precision), llama, norm=f"{layout.decoder}norm", head=head
            ),
            folds=(Fold(head, (f"{layout.decoder}norm.weight",)),),
        ),
    )


def _layer_groups(config: LlavaConfig, group_parameters: int) -> list[tuple[int, int]]:
    one_layer = decoder_parameters(config.llama, "", (0, 1)).values()
    parameters = sum(p.shape[0] * (p.shape[1] if p.is_matrix else 1) for p in one_layer)
    step, end = max(group_parameters // parameters, 1), config.llama.num_layers
    return [(first, min(first + step, end)) for first in range(0, end, step)]


def _connector_parameters(config: LlavaConfig, prefix: str) -> dict[str, Parameter]:
    width, bias = config.llama.hidden_size, config.connector_bias
    return {
        **linear_parameters(f"{prefix}linear_1", width, config.vit.feature_width, bias=bias),
        **linear_parameters(f"{prefix}linear_2", width, width, bias=bias),
    }


def _optional_biases(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Biases of the decoder's matrices, which LLaMA itself has none of and some of its kin do."""
    matrices = {name.removesuffix("weight") + "bias": p for name, p in parameters.items() if p.is_matrix}
    return {name: Parameter(p.shape[:1]) for name, p in matrices.items() if name in checkpoint}


def token_ids(value: object) -> tuple[int, ...]:
    """One token's number or a list of them, as generation settings have either.

    Raises:
        CheckpointError: it is neither.
    """
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(type(i) is int for i in ids):
        raise CheckpointError(f"eos_token_id is {value!r}; expected a token's number, or a list of them")
    return tuple(ids)
