"""SmolVLM and Idefics3: a SigLIP tower, a pixel shuffle with one matrix, and a LLaMA decoder."""

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
from engines.layers.connector import Connector
from engines.layers.decoder import DecoderGroup, LlamaConfig
from engines.layers.norm import Norm
from engines.layers.parameters import Parameter, under
from engines.layers.projection import projection
from engines.layers.vision_tower import PatchEmbedding, VisionTower, VitConfig, vision_layer

_PROMPT = prompt_around_image(f"<|im_start|>User: {INSTRUCTION}", "<end_of_utterance>\nAssistant:")
_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"
_HALF = (0.5, 0.5, 0.5)
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_ONE_TILE = 1  # the edge's way: a thirteenth of the tokens that a frame takes in tiles
_LONGEST_EDGE = 4096  # pixels; beyond, transformers resizes again


@dataclass(frozen=True)
class SmolVlmConfig:
    """``config.json``, read and checked."""

    vit: VitConfig
    llama: LlamaConfig
    shuffle: int  # rows and columns of patches that make one token
    image_token_id: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]

    @property
    def tile_tokens(self) -> int:
        """Tokens along a side of a tile."""
        return self.vit.grid // self.shuffle


def read_smolvlm(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A SmolVLM, SmolVLM2 or Idefics3 checkpoint; it looks at a frame as a whole unless ``options`` ask for tiles.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    config = read_smolvlm_config(checkpoint.config, checkpoint.generation_config)
    tokenizer = tokenizer_of(checkpoint)
    image = _read_image(checkpoint, config, options, tokenizer)
    eos = stop_tokens(tokenizer, config.eos_token_ids, "<end_of_utterance>")
    return Model(
        family="smolvlm",
        spec=spec_of(config.llama, config.bos_token_id, eos, config.image_token_id),
        image=image,
        prompt=inspection_prompt(checkpoint, INSTRUCTION, config.image_token_id, _PROMPT),
        positions=PositionSpec("sequential", config.llama.rotary),
        parts=_parts(checkpoint, config, group_parameters),
        vision=vision_work(config.vit, image.max_tensors),
    )


def read_smolvlm_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> SmolVlmConfig:
    """The settings, with the defaults of ``SmolVLMConfig`` in transformers.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    settings = Settings(values)
    vision, text = settings.below("vision_config"), settings.below("text_config")
    vision.choice("model_type", "smolvlm_vision", ("smolvlm_vision", "idefics3_vision", "idefics3"))
    layers = vision.size("num_hidden_layers", 12)
    vit = VitConfig(
        image_size=vision.size("image_size", 224),
        patch_size=vision.size("patch_size", 32),
        hidden_size=vision.size("hidden_size", 1152),
        intermediate_size=vision.size("intermediate_size", 3072),
        num_heads=vision.size("num_attention_heads", 16),
        all_layers=layers,
        feature_layers=(layers,),
        activation=_ACTIVATIONS[vision.choice("hidden_act", "gelu_pytorch_tanh", tuple(_ACTIVATIONS))],
        layer_norm_eps=vision.number("layer_norm_eps", 1e-6),
        keep_class_token=False,
        has_class_token=False,
    )
    shuffle = settings.size("scale_factor", 2)
    if vit.grid % shuffle:
        raise CheckpointError(
            f"config.json: scale_factor is {shuffle}, which does not divide {vit.grid} patches a side"
        )
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 2))
    return SmolVlmConfig(
        vit=vit,
        llama=read_llama(text, text.choice("model_type", "llama", tuple(DECODERS))),
        shuffle=shuffle,
        image_token_id=settings.integer("image_token_id", 128257),
        bos_token_id=text.integer("bos_token_id", 1),
        eos_token_ids=token_ids(eos),
    )


def smolvlm_parameters(config: SmolVlmConfig, prefix: str = "model.") -> dict[str, Parameter]:
    """Every tensor of a whole checkpoint."""
    llama = config.llama
    return {
        **under(f"{prefix}vision_model.", siglip_tower(config.vit).parameters()),
        **_connector(config, f"{prefix}connector.").parameters(),
        **embedding_matrix(f"{prefix}text_model.embed_tokens", llama).parameters(),
        **under(f"{prefix}text_model.", DecoderGroup(llama, 0, llama.num_layers).parameters()),
        **lm_head(llama, f"{prefix}text_model.", "lm_head").parameters(),
    }


def siglip_tower(config: VitConfig) -> VisionTower:
    """Hugging Face's ``SiglipVisionModel`` without its pooling head: no class token, and a norm behind the layers."""
    width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    patches = PatchEmbedding("embeddings.", config.image_size, config.patch_size, width, class_row=None, has_bias=True)
    layers = tuple(
        vision_layer(f"encoder.layers.{number}.", number, width, inner, config.num_heads, config.activation, eps)
        for number in range(config.num_layers)
    )
    return VisionTower(patches, None, layers, config, Norm("post_layernorm", width, eps, has_mean=True))


def _parts(checkpoint: Checkpoint, config: SmolVlmConfig, group_parameters: int) -> tuple[Part, ...]:
    vision, decoder = (
        prefix_before(checkpoint, ending)
        for ending in ("embeddings.patch_embedding.weight", "layers.0.input_layernorm.weight")
    )
    connector = prefix_before(checkpoint, "modality_projection.proj.weight")
    if vision is None or decoder is None or connector is None:
        raise CheckpointError(
            f"{checkpoint.name} lacks a vision tower, a connector or a decoder under the names SmolVLM gives them; "
            "expected a model saved by transformers' SmolVLMForConditionalGeneration"
        )
    head, embedding = find_head(checkpoint)
    llama = config.llama
    return (
        part_of(checkpoint, "vision_encoder", siglip_tower(config.vit), vision),
        part_of(checkpoint, "connector", _connector(config, connector)),
        Part("embedding", "embedding", None, embedding_matrix(embedding, llama).parameters(), None),
        *decoder_parts(checkpoint, llama, decoder, group_parameters),
        part_of(checkpoint, "lm_head", lm_head(llama, decoder, head)),
    )


def _connector(config: SmolVlmConfig, prefix: str) -> Connector:
    columns = config.vit.hidden_size * config.shuffle**2
    matrix = projection(f"{prefix}modality_projection.proj", config.llama.hidden_size, columns)
    return Connector(config.vit.num_features, matrix, shuffle=config.shuffle)


def _read_image(
    checkpoint: Checkpoint, config: SmolVlmConfig, options: ImageOptions, tokenizer: Tokenizer
) -> TiledImage:
    if options.fit is not None:
        raise CheckpointError(f"{checkpoint.name} has its own way of fitting frames; leave --fit out")
    settings, side = Settings(checkpoint.image_processor, "the image processor"), config.vit.image_size
    pixels = read_pixels(settings, side, side, 1, _HALF, _HALF)
    if (tile := settings.below("max_image_size").size("longest_edge", 364)) != side:
        raise CheckpointError(
            f"{settings.where} makes tiles of {tile} pixels; the vision encoder takes {side} x {side}"
        )
    edge = settings.below("size").size("longest_edge", 4 * 364)
    if edge > _LONGEST_EDGE:
        raise CheckpointError(f"{settings.where} resizes to {edge} pixels; supported: {_LONGEST_EDGE} at most")
    most, sides = options.tiles or _ONE_TILE, range(1, -(-edge // side) + 1)
    grids = tuple((rows, columns) for rows in sides for columns in sides if rows * columns <= most)
    image = TiledImage(
        kind="tiles",
        pixels=pixels,
        grids=grids,
        overview="last",
        fill=(0, 0, 0),
        tile_tokens=(config.tile_tokens, config.tile_tokens),
        frames=options.frames,
        max_tokens=2**20 - 1,
        rule="longest_edge",
        longest_edge=edge,
        tags=_tags(checkpoint, tokenizer, max(max(grid) for grid in grids)),
    )
    return with_room(image, options)


def _tags(checkpoint: Checkpoint, tokenizer: Tokenizer, side: int) -> TileTags:
    """Text that transformers' ``SmolVLMProcessor`` puts around and between tiles, of grids of up to ``side`` a side."""
    if missing := [text for text in (_AROUND, _WHOLE) if tokenizer.token_to_id(text) is None]:
        raise CheckpointError(
            f"the tokenizer.json of {checkpoint.name} does not know {', '.join(missing)}, which stand around an image; "
            "is it of another model?"
        )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    def before(row: int, column: int) -> tuple[int, ...]:
        line = "\n" if row > 0 and column == 0 else ""
        return ids(f"{line}{_AROUND}<row_{row + 1}_col_{column + 1}>")

    return TileTags(
        before_tile=tuple(tuple(before(row, column) for column in range(side)) for row in range(side)),
        before_overview=ids(f"\n\n{_AROUND}{_WHOLE}"),
        before_single=ids(f"{_AROUND}{_WHOLE}"),
        behind=ids(_AROUND),
    )
