"""InternVL 3 and 3.5 in transformers' own layout: InternViT, a pixel shuffle with a perceptron, and a Qwen decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import PositionSpec, TiledImage, TileTags, prompt_around_image
from edge_runtime.errors import CheckpointError
from engines.checkpoint import Checkpoint
from engines.families.base import ImageOptions, Model, Part, Settings, part_of
from engines.families.chat_template import inspection_prompt, tokenizer_of
from engines.families.image_processor import read_pixels, with_room
from engines.families.llava import (
    DECODERS,
    INSTRUCTION,
    decoder_parts,
    embedding_matrix,
    find_head,
    lm_head,
    prefix_before,
    read_llama,
    spec_of,
    stop_tokens,
    token_ids,
    vision_work,
)
from engines.layers.attention import SelfAttention
from engines.layers.connector import Connector
from engines.layers.decoder import DecoderGroup, LlamaConfig
from engines.layers.mlp import Mlp
from engines.layers.norm import Norm
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection, StoredMatrix, projection
from engines.layers.transformer import TransformerLayer
from engines.layers.vision_tower import PatchEmbedding, VisionTower, VitConfig

_PROMPT = prompt_around_image(f"<|im_start|>user\n{INSTRUCTION}\n", "<|im_end|>\n<|im_start|>assistant\n")
_AS_INTERNVIT_300M = {"use_qk_norm": False, "use_absolute_position_embeddings": True, "use_mean_pooling": True}
_CONNECTOR_EPS = 1e-5  # torch's own, as transformers gives none


@dataclass(frozen=True)
class InternVlConfig:
    """``config.json``, read and checked."""

    vit: VitConfig
    has_qkv_biases: bool  # of the vision encoder
    llama: LlamaConfig
    shuffle: int  # rows and columns of patches that make one token
    connector_activation: str
    image_token_id: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]

    @property
    def tile_tokens(self) -> int:
        """Tokens along a side of a tile."""
        return self.vit.grid // self.shuffle


def read_internvl(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """An InternVL checkpoint whose name ends with ``-hf``; ``options`` may cap the tiles that a frame is cut into.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    config = read_internvl_config(checkpoint.config, checkpoint.generation_config)
    tokenizer = tokenizer_of(checkpoint)
    image = _read_image(checkpoint, config, options, tokenizer)
    eos = stop_tokens(tokenizer, config.eos_token_ids, "<|im_end|>")
    return Model(
        family="internvl",
        spec=spec_of(config.llama, config.bos_token_id, eos, config.image_token_id),
        image=image,
        prompt=inspection_prompt(checkpoint, INSTRUCTION, config.image_token_id, _PROMPT),
        positions=PositionSpec("sequential", config.llama.rotary),
        parts=_parts(checkpoint, config, group_parameters),
        vision=vision_work(config.vit, image.max_tensors),
    )


def read_internvl_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> InternVlConfig:
    """The settings, with the defaults of ``InternVLConfig`` in transformers.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    settings = Settings(values)
    vision, text = settings.below("vision_config"), settings.below("text_config")
    vision.choice("model_type", "internvl_vision", ("internvl_vision",))
    vision.choice("norm_type", "layer_norm", ("layer_norm",))
    settings.choice("vision_feature_select_strategy", "default", ("default",))
    for name, expected in _AS_INTERNVIT_300M.items():
        if vision.flag(name, expected) != expected:
            raise CheckpointError(
                f"{vision.where}: {name} is {not expected}; supported: {expected}, as InternViT-300M has it"
            )
    layers, feature_layer = vision.size("num_hidden_layers", 24), settings.integer("vision_feature_layer", -1)
    if not -layers <= feature_layer <= layers or feature_layer == 0:
        raise CheckpointError(f"config.json: vision_feature_layer is {feature_layer}, of {layers} layers")
    vit = VitConfig(
        image_size=_side(vision, "image_size", 448),
        patch_size=_side(vision, "patch_size", 14),
        hidden_size=vision.size("hidden_size", 1024),
        intermediate_size=vision.size("intermediate_size", 4096),
        num_heads=vision.size("num_attention_heads", 16),
        all_layers=layers,
        feature_layers=(feature_layer if feature_layer > 0 else layers + 1 + feature_layer,),
        activation=vision.choice("hidden_act", "gelu", ("gelu",)),
        layer_norm_eps=vision.number("layer_norm_eps", 1e-6),
        keep_class_token=False,
    )
    ratio = settings.number("downsample_ratio", 0.5)
    shuffle = round(1 / ratio)
    if shuffle < 1 or abs(shuffle * ratio - 1) > 1e-6 or vit.grid % shuffle:
        raise CheckpointError(
            f"config.json: downsample_ratio is {ratio}; expected 1 over a number that divides {vit.grid} patches a side"
        )
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 151645))
    return InternVlConfig(
        vit=vit,
        has_qkv_biases=vision.flag("attention_bias", False),
        llama=read_llama(text, text.choice("model_type", "qwen2", tuple(DECODERS))),
        shuffle=shuffle,
        connector_activation=settings.choice("projector_hidden_act", "gelu", ("gelu",)),
        image_token_id=settings.integer("image_token_id", 151667),
        bos_token_id=text.integer("bos_token_id", 151643),
        eos_token_ids=token_ids(eos),
    )


def internvl_parameters(config: InternVlConfig, prefix: str = "model.") -> dict[str, Parameter]:
    """Every tensor of a whole checkpoint."""
    llama = config.llama
    return {
        **under(f"{prefix}vision_tower.", internvit(config).parameters()),
        **_connector(config, f"{prefix}multi_modal_projector.").parameters(),
        **embedding_matrix(f"{prefix}language_model.embed_tokens", llama).parameters(),
        **under(f"{prefix}language_model.", DecoderGroup(llama, 0, llama.num_layers).parameters()),
        **lm_head(llama, f"{prefix}language_model.", "lm_head").parameters(),
    }


def internvit(config: InternVlConfig) -> VisionTower:
    """Hugging Face's ``InternVLVisionModel``: what layers put out is scaled, and no norm stands around them."""
    vit = config.vit
    patches = PatchEmbedding(
        "embeddings.",
        vit.image_size,
        vit.patch_size,
        vit.hidden_size,
        class_row="cls_token",
        positions="position_embeddings",
        convolution="patch_embeddings.projection",
        has_bias=True,
        is_batched=True,
    )
    return VisionTower(patches, None, tuple(_vision_layer(config, number) for number in range(vit.num_layers)), vit)


def _vision_layer(config: InternVlConfig, number: int) -> TransformerLayer:
    vit = config.vit
    width, inner, eps = vit.hidden_size, vit.intermediate_size, vit.layer_norm_eps
    parts = (("q_proj", "qk"), ("k_proj", "qk"), ("v_proj", "v"))
    stored = tuple(StoredMatrix(f"attention.{name}", width, kind) for name, kind in parts)
    return TransformerLayer(
        prefix=f"encoder.layer.{number}.",
        number=number,
        attention_norm=Norm("layernorm_before", width, eps, has_mean=True),
        qkv=Projection("attention.qkv_proj", width, stored, has_bias=config.has_qkv_biases),
        attention=SelfAttention("attention", vit.num_heads, width),
        out=projection("attention.projection_layer", width, width, has_bias=True, kind="o"),
        mlp_norm=Norm("layernorm_after", width, eps, has_mean=True),
        mlp=Mlp(
            projection("mlp.fc1", inner, width, has_bias=True, kind="ffn"),
            projection("mlp.fc2", width, inner, has_bias=True, kind="ffn"),
            vit.activation,
        ),
        scales=("lambda_1", "lambda_2"),
    )


def _parts(checkpoint: Checkpoint, config: InternVlConfig, group_parameters: int) -> tuple[Part, ...]:
    endings = ("embeddings.cls_token", "multi_modal_projector.linear_1.weight", "layers.0.input_layernorm.weight")
    vision, connector, decoder = (prefix_before(checkpoint, ending) for ending in endings)
    if vision is None or decoder is None or connector is None:
        raise CheckpointError(
            f"{checkpoint.name} lacks a vision tower, a connector or a decoder under the names that transformers' "
            "InternVLForConditionalGeneration gives them; take the model whose name ends with -hf"
        )
    head, embedding = find_head(checkpoint, is_tied=True)
    llama = config.llama
    return (
        part_of(checkpoint, "vision_encoder", internvit(config), vision),
        part_of(checkpoint, "connector", _connector(config, f"{connector}multi_modal_projector.")),
        Part("embedding", "embedding", None, embedding_matrix(embedding, llama).parameters(), None),
        *decoder_parts(checkpoint, llama, decoder, group_parameters),
        part_of(checkpoint, "lm_head", lm_head(llama, decoder, head)),
    )


def _connector(config: InternVlConfig, prefix: str) -> Connector:
    columns, width = config.vit.hidden_size * config.shuffle**2, config.llama.hidden_size
    first = projection(f"{prefix}linear_1", width, columns, has_bias=True)
    second = projection(f"{prefix}linear_2", width, width, has_bias=True)
    norm = Norm(f"{prefix}layer_norm", columns, _CONNECTOR_EPS, has_mean=True)
    mlp = Mlp(first, second, config.connector_activation)
    return Connector(config.vit.num_features, mlp, shuffle=config.shuffle, norm=norm)


def _side(settings: Settings, key: str, default: int) -> int:
    """A side of a square, which the settings give as such or as height and width."""
    value = settings.values.get(key, default)
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        return Settings({key: value[0]}, settings.where).size(key, default)
    return settings.size(key, default)


def _read_image(
    checkpoint: Checkpoint, config: InternVlConfig, options: ImageOptions, tokenizer: Tokenizer
) -> TiledImage:
    if options.fit is not None:
        raise CheckpointError(f"{checkpoint.name} squeezes frames to its tiles; leave --fit out")
    settings, side = Settings(checkpoint.image_processor, "the image processor"), config.vit.image_size
    pixels = read_pixels(settings, side, side)
    size = settings.below("size")
    if (tile := (size.size("height", 384), size.size("width", 384))) != (side, side):
        raise CheckpointError(f"{settings.where} makes tiles of {tile}; the vision encoder takes {side} x {side}")
    least, most = settings.size("min_patches", 1), options.tiles or settings.size("max_patches", 12)
    if most < least:
        raise CheckpointError(f"{settings.where} has min_patches {least}; ask for as many --tiles at least, not {most}")
    sides = range(1, most + 1)
    grids = tuple((rows, columns) for rows in sides for columns in sides if least <= rows * columns <= most)
    image = TiledImage(
        kind="tiles",
        pixels=pixels,
        grids=grids,
        overview="last",
        fill=(0, 0, 0),
        tile_tokens=(config.tile_tokens, config.tile_tokens),
        frames=options.frames,
        max_tokens=2**20 - 1,
        rule="nearest_ratio",
        tags=_tags(checkpoint, tokenizer, most),
    )
    return with_room(image, options)


def _tags(checkpoint: Checkpoint, tokenizer: Tokenizer, side: int) -> TileTags:
    """One token before the image and one behind it, as transformers' ``InternVLProcessor`` has it."""
    named = {**checkpoint.tokenizer_config, **(checkpoint.tokenizer_config.get("extra_special_tokens") or {})}
    texts = str(named.get("start_image_token", "<img>")), str(named.get("end_image_token", "</img>"))
    begin, end = (() if (token := tokenizer.token_to_id(text)) is None else (token,) for text in texts)
    if not begin or not end:
        raise CheckpointError(
            f"the tokenizer.json of {checkpoint.name} does not know {' and '.join(texts)}, which stand around an "
            "image; is it of another model?"
        )
    rows = [[begin if row == column == 0 else () for column in range(side)] for row in range(side)]
    return TileTags(tuple(map(tuple, rows)), (), begin, end)
