"""Llama 3.2 Vision: a decoder that looks at image tiles through layers of its own; plans it, and cannot emit it yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.bundle.manifest import ModelSpec, PixelSpec, PositionSpec, RotarySpec, SingleImage
from edge_runtime.errors import CheckpointError
from engines.checkpoint import Checkpoint
from engines.families.base import ImageOptions, Model, Part, Settings, VisionWork
from engines.families.llava import DEFAULT_PROMPT, lm_head, token_ids
from engines.layers.decoder import LlamaConfig, decoder_layer
from engines.layers.norm import Norm
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection, numbers_in, projection
from engines.layers.vision_tower import vision_layer
from engines.layers.weights import TensorSource
from engines.onnx.builder import Graph
from engines.quantize.recipe import Precision

_WHY_NOT = "there are no graphs of its cross-attention yet"
_SPECIAL_ROWS = 8  # the embedding's beyond the vocabulary: the image's and reserved ones
_ROWS_MULTIPLE = 8  # a tile's patches and class token are padded to a multiple of this


@dataclass(frozen=True)
class MllamaConfig:
    """``config.json``, read and checked."""

    llama: LlamaConfig
    cross_layers: tuple[int, ...]  # of the decoder, which see the image and not the text before
    vision_width: int
    vision_inner: int
    vision_layers: int  # that see one tile
    global_layers: int  # that see all tiles
    output_width: int  # of the features: the last layer's beside those of a few others
    image_size: int
    patch_size: int
    tiles: int
    aspect_ratios: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int

    @property
    def tile_rows(self) -> int:
        """Patches and the class token of one tile."""
        return (self.image_size // self.patch_size) ** 2 + 1


def read_mllama(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A Llama 3.2 Vision checkpoint, with the most tiles that an image can have.

    Raises:
        CheckpointError: it is none, or a setting is malformed.
    """
    config = read_mllama_config(checkpoint.config, checkpoint.generation_config)
    llama = config.llama
    padded = -(-config.tile_rows // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    cross = len(config.cross_layers)
    return Model(
        family="mllama",
        spec=ModelSpec(
            hidden_size=llama.hidden_size,
            num_layers=llama.num_layers - cross,  # those that keep keys and values of the text
            num_heads=llama.num_heads,
            num_kv_heads=llama.num_kv_heads,
            head_dim=llama.head_dim,
            vocab_size=llama.vocab_size,
            max_positions=llama.max_positions,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            image_token_id=config.image_token_id,
        ),
        image=SingleImage(
            kind="single",
            pixels=PixelSpec(
                height=config.image_size,
                width=config.image_size,
                resample=2,
                rescale_factor=1 / 255,
                mean=(0.48145466, 0.4578275, 0.40821073),
                std=(0.26862954, 0.26130258, 0.27577711),
            ),
            fit="squeeze",
            shortest_edge=None,
            fill=(0, 0, 0),
            tokens=1,
        ),
        positions=PositionSpec("sequential", llama.rotary),
        prompt=DEFAULT_PROMPT,
        parts=_parts(checkpoint, config, group_parameters),
        vision=VisionWork(
            rows=config.tiles * padded,
            at_a_time=(config.tiles * padded, config.vision_width),
            # Padding is masked, not left out: every row meets the rows of all tiles.
            attention_operations=4
            * (config.tiles * padded) ** 2
            * config.vision_width
            * (config.vision_layers + config.global_layers),
        ),
        image_cache_numbers=2 * cross * llama.num_kv_heads * llama.head_dim * config.tiles * config.tile_rows,
        only_planned=_WHY_NOT,
    )


def read_mllama_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> MllamaConfig:
    """The settings, with the defaults of ``MllamaTextConfig`` and ``MllamaVisionConfig`` in transformers.

    Raises:
        CheckpointError: a setting is malformed.
    """
    settings = Settings(values)
    vision, text = settings.below("vision_config"), settings.below("text_config")
    hidden_size, num_heads = text.size("hidden_size", 4096), text.size("num_attention_heads", 32)
    cross_layers = text.values.get("cross_attention_layers") or list(range(3, 40, 5))
    ratios = vision.values.get("supported_aspect_ratios") or [[1, 1]] * 8
    if not isinstance(ratios, list) or not isinstance(cross_layers, list) or not cross_layers:
        raise CheckpointError("config.json: cross_attention_layers or supported_aspect_ratios is no list")
    return MllamaConfig(
        llama=LlamaConfig(
            hidden_size=hidden_size,
            intermediate_size=text.size("intermediate_size", 14336),
            num_layers=text.size("num_hidden_layers", 40),
            num_heads=num_heads,
            num_kv_heads=text.size("num_key_value_heads", 8),
            head_dim=hidden_size // num_heads,
            vocab_size=text.size("vocab_size", 128256),
            max_positions=text.size("max_position_embeddings", 131072),
            rms_norm_eps=text.number("rms_norm_eps", 1e-5),
            rotary=RotarySpec(text.number("rope_theta", 500000.0), hidden_size // num_heads),
            activation=text.choice("hidden_act", "silu", ("silu",)),
        ),
        cross_layers=tuple(cross_layers),
        vision_width=vision.size("hidden_size", 1280),
        vision_inner=vision.size("intermediate_size", 5120),
        vision_layers=vision.size("num_hidden_layers", 32),
        global_layers=vision.size("num_global_layers", 8),
        output_width=vision.size("vision_output_dim", 7680),
        image_size=vision.size("image_size", 448),
        patch_size=vision.size("patch_size", 14),
        tiles=vision.size("max_num_tiles", 4),
        aspect_ratios=len(ratios),
        bos_token_id=text.integer("bos_token_id", 128000),
        eos_token_ids=token_ids(generation.get("eos_token_id", text.values.get("eos_token_id", 128001))),
        image_token_id=settings.integer("image_token_index", 128256),
    )


def mllama_parameters(config: MllamaConfig, prefix: str = "") -> dict[str, Parameter]:
    """Every tensor of a checkpoint, under the names of transformers before 4.52."""
    decoder = f"{prefix}language_model.model."
    return {
        **_vision_parameters(config, f"{prefix}vision_model."),
        **_connector(config, prefix).parameters(),
        **_embedding(config, decoder).parameters(),
        **_layer_parameters(config, decoder, (0, config.llama.num_layers)),
        **lm_head(config.llama, decoder, f"{prefix}language_model.lm_head").parameters(),
    }


def _parts(checkpoint: Checkpoint, config: MllamaConfig, group_parameters: int) -> tuple[Part, ...]:
    vision, connector = _prefix(checkpoint, "class_embedding"), _prefix(checkpoint, "multi_modal_projector.weight")
    decoder, head = _prefix(checkpoint, "embed_tokens.weight"), _prefix(checkpoint, "lm_head.weight")
    llama = config.llama
    step = max(group_parameters // numbers_in(_layer_parameters(config, "", (0, 1))), 1)
    starts = range(0, llama.num_layers, step)

    def part(name: str, kind: str, parameters: dict[str, Parameter], layers: tuple[int, int] | None = None) -> Part:
        return Part(name, kind, layers, parameters, None if kind == "embedding" else _emit_nothing)

    return (
        part("vision_encoder", "vision_encoder", _vision_parameters(config, vision)),
        part("connector", "connector", _connector(config, connector).parameters()),
        part("embedding", "embedding", _embedding(config, decoder).parameters()),
        *(
            part(f"decoder.{index:02d}", "decoder", _layer_parameters(config, decoder, layers), layers)
            for index, layers in enumerate((first, min(first + step, llama.num_layers)) for first in starts)
        ),
        part("lm_head", "lm_head", lm_head(config.llama, decoder, f"{head}lm_head").parameters()),
    )


def _connector(config: MllamaConfig, prefix: str) -> Projection:
    width = config.llama.hidden_size
    return projection(f"{prefix}multi_modal_projector", width, config.output_width, has_bias=True)


def _vision_parameters(config: MllamaConfig, prefix: str) -> dict[str, Parameter]:
    width, inner, patch = config.vision_width, config.vision_inner, config.patch_size
    rows, ratios = config.tile_rows, config.aspect_ratios + 1  # and one for padding
    parameters = {
        "class_embedding": Parameter((width,)),
        **projection("patch_embedding", width, (3, patch, patch), kind="patch").parameters(),
        "gated_positional_embedding.gate": Parameter((1,)),
        "gated_positional_embedding.embedding": Parameter((rows, width)),
        "gated_positional_embedding.tile_embedding.weight": Parameter((ratios, config.tiles * rows * width)),
    }
    for name in ("pre_tile_positional_embedding", "post_tile_positional_embedding"):
        parameters[f"{name}.gate"] = Parameter((1,))
        parameters[f"{name}.embedding.weight"] = Parameter((ratios, config.tiles * width))
    for name in ("layernorm_pre", "layernorm_post"):
        parameters |= Norm(name, width, 1.0, has_mean=True).parameters()
    layers = [f"transformer.layers.{i}." for i in range(config.vision_layers)]
    gated = [f"global_transformer.layers.{i}." for i in range(config.global_layers)]
    for number, layer in enumerate((*layers, *gated)):
        plain = vision_layer(layer, number, width, inner, 1, "gelu", 1.0)
        parts = replace(
            plain,
            attention_norm=replace(plain.attention_norm, name="input_layernorm"),
            qkv=replace(plain.qkv, has_bias=False),
            out=projection("self_attn.o_proj", width, width, kind="o"),
            mlp_norm=replace(plain.mlp_norm, name="post_attention_layernorm"),
        )
        parameters |= parts.parameters()
    for layer in gated:
        parameters[f"{layer}gate_attn"] = parameters[f"{layer}gate_ffn"] = Parameter((1,))
    return under(prefix, parameters)


def _embedding(config: MllamaConfig, prefix: str) -> Projection:
    llama = config.llama
    return projection(f"{prefix}embed_tokens", llama.vocab_size + _SPECIAL_ROWS, llama.hidden_size)


def _layer_parameters(config: MllamaConfig, prefix: str, layers: tuple[int, int]) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for i in range(*layers):
        if i not in config.cross_layers:
            parameters |= decoder_layer(config.llama, i).parameters()
            continue
        parameters |= decoder_layer(replace(config.llama, has_query_key_norms=True), i, "cross_attn").parameters()
        for gate in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
            parameters[f"layers.{i}.{gate}"] = Parameter((1,))
    return under(prefix, parameters)


def _prefix(checkpoint: Checkpoint, ending: str) -> str:
    found = [name for name in checkpoint if name.endswith(ending)]
    if len(found) != 1:
        raise CheckpointError(
            f"{checkpoint.name} has {len(found)} tensors whose names end with {ending}, expected one; expected a model "
            "saved by transformers' MllamaForConditionalGeneration"
        )
    return found[0].removesuffix(ending)


def _emit_nothing(graph: Graph, lowering: OpLowering, source: TensorSource, precision: Precision) -> None:
    raise CheckpointError(f"this model can be planned, and not built: {_WHY_NOT}")
