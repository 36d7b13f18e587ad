"""Qwen3-VL: a tower over pictures of their own shape, whose maps join the first layers of a Qwen3 decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.bundle.manifest import CoordinateSpec, NativeImage, PositionSpec, PromptSpec, prompt_around_image
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.schema import BRIDGE
from edge_runtime.vision.image_processors import native_grid
from engines.checkpoint import Checkpoint
from engines.families.base import ImageOptions, Model, Part, Settings, VisionWork, part_of
from engines.families.chat_template import inspection_prompt, tokenizer_of
from engines.families.image_processor import mean_colour, read_pixels
from engines.families.llava import (
    decoder_parts,
    embedding_matrix,
    find_head,
    lm_head,
    prefix_before,
    read_llama,
    spec_of,
    stop_tokens,
    token_ids,
)
from engines.layers.decoder import DecoderGroup, LlamaConfig
from engines.layers.native_tower import Grids, NativeTower, NativeVitConfig, PatchMerger
from engines.layers.parameters import Parameter, under

MERGE = 2  # patches along a side of a token
_STEPS = 1000  # the model writes corners in thousandths of the picture
_INSTRUCTION = BRIDGE.instruction(_STEPS)  # until a build asks for another schema
_LARGEST_RATIO = 200  # of a frame's sides
_USUAL_FRAMES = ((1280, 720), (640, 480))  # widths and heights, where no others are asked for
_DEFAULTS = {"head_dim": 128, "max_position_embeddings": 128000, "rope_theta": 500000.0}


@dataclass(frozen=True)
class QwenVlConfig:
    """``config.json``, read and checked; the grids are still to be chosen."""

    vit: NativeVitConfig
    llama: LlamaConfig
    sections: tuple[int, ...]  # of mRoPE
    image_token_id: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]


def read_qwen3_vl(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A Qwen3-VL checkpoint, dense (Cosmos-Reason2 is one), for the frames of ``options``, or for usual ones.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    config = read_qwen3_vl_config(checkpoint.config, checkpoint.generation_config)
    image = native_image(checkpoint, config.vit.patch_size, options)
    vit = replace(config.vit, grids=Grids(image.grids, image.merge))
    llama = config.llama
    eos = stop_tokens(tokenizer_of(checkpoint), config.eos_token_ids, "<|im_end|>")
    return Model(
        family="qwen3_vl",
        spec=spec_of(llama, config.bos_token_id, eos, config.image_token_id),
        image=image,
        prompt=qwen_prompt(checkpoint, _INSTRUCTION, config.image_token_id),
        positions=PositionSpec("mrope", llama.rotary, config.sections, "interleaved"),
        parts=qwen_parts(checkpoint, vit, PatchMerger("merger.", vit), llama, group_parameters),
        vision=qwen_vision_work(vit),
        coordinates=CoordinateSpec(_STEPS),
    )


def qwen_prompt(checkpoint: Checkpoint, instruction: str, image_token_id: int) -> PromptSpec:
    """The ``instruction`` in the checkpoint's chat template, or as Qwen's is worded.

    Raises:
        CheckpointError: the template cannot be rendered, or holds no image.
    """
    before = f"<|im_start|>user\n{instruction}<|vision_start|>"
    usual = prompt_around_image(before, "<|vision_end|><|im_end|>\n<|im_start|>assistant\n")
    return inspection_prompt(checkpoint, instruction, image_token_id, usual)


def read_qwen3_vl_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> QwenVlConfig:
    """The settings, with the defaults of ``Qwen3VLConfig`` in transformers.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    settings = Settings(values)
    vision, text = settings.below("vision_config"), settings.below("text_config")
    vision.choice("model_type", "qwen3_vl_vision", ("qwen3_vl_vision", "qwen3_vl"))
    text.choice("model_type", "qwen3_vl_text", ("qwen3_vl_text",))
    text = Settings({**_DEFAULTS, **text.values}, text.where)
    llama = read_llama(text, "qwen3")
    vit = _read_vision(vision, llama)
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 151645))
    return QwenVlConfig(
        vit=vit,
        llama=replace(llama, deepstack_layers=len(vit.taps)),
        sections=read_sections(text, llama.head_dim),
        image_token_id=settings.integer("image_token_id", 151655),
        bos_token_id=text.integer("bos_token_id", 151643),
        eos_token_ids=token_ids(eos),
    )


def _read_vision(vision: Settings, llama: LlamaConfig) -> NativeVitConfig:
    width, heads, layers = vision.size("hidden_size", 1152), vision.size("num_heads", 16), vision.size("depth", 27)
    check_tower(vision, llama, width, heads)
    learned = vision.size("num_position_embeddings", 2304)
    if math.isqrt(learned) ** 2 != learned:
        raise CheckpointError(f"{vision.where}: num_position_embeddings is {learned}; supported: a square")
    taps = vision.values.get("deepstack_visual_indexes", [8, 16, 24])
    is_list = isinstance(taps, (list, tuple)) and all(type(tap) is int for tap in taps)
    if not is_list or sorted({*taps}) != [*taps] or not {*taps} <= {*range(layers)} or len(taps) > llama.num_layers:
        raise CheckpointError(
            f"{vision.where}: deepstack_visual_indexes is {taps!r}; expected numbers of the {layers} layers in order"
        )
    return NativeVitConfig(
        patch_size=vision.size("patch_size", 16),
        frames=vision.size("temporal_patch_size", 2),
        hidden_size=width,
        intermediate_size=vision.size("intermediate_size", 4304),
        num_heads=heads,
        num_layers=layers,
        table_side=math.isqrt(learned),
        theta=axial_theta(vision),
        layer_norm_eps=1e-6,
        activation={"gelu_pytorch_tanh": "gelu_tanh"}[
            vision.choice("hidden_act", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",))
        ],
        taps=tuple(taps),
        out_width=llama.hidden_size,
        grids=Grids((), MERGE),
    )


def check_tower(vision: Settings, llama: LlamaConfig, width: int, heads: int) -> None:
    """Refuse settings of a vision tower that no engine has.

    Raises:
        CheckpointError: there is one.
    """
    for key, expected in (("in_channels", 3), ("spatial_merge_size", MERGE), ("out_hidden_size", llama.hidden_size)):
        if (found := vision.size(key, expected)) != expected:
            raise CheckpointError(f"{vision.where}: {key} is {found}; supported: {expected}")
    if width % (4 * heads):
        raise CheckpointError(
            f"{vision.where}: hidden_size is {width}, of {heads} heads (num_heads); supported: a multiple of 4 a head"
        )


def axial_theta(vision: Settings) -> float:
    """The base of the rotation of patches by their rows and columns.

    Raises:
        CheckpointError: they turn in another way.
    """
    rope = vision.below("rope_parameters")
    rope.choice("rope_type", "axial", ("axial",))
    return rope.number("rope_theta", 10000.0)


def read_sections(text: Settings, head_dim: int, *, is_interleaved: bool = True) -> tuple[int, ...]:
    """How many pairs of a head turn by time, height and width.

    Raises:
        CheckpointError: the settings do not say, or they don't make a head.
    """
    rope = text.below("rope_parameters" if text.values.get("rope_parameters") else "rope_scaling")
    sections = rope.values.get("mrope_section")
    if sections is None:
        raise CheckpointError(f"{rope.where}: mrope_section is missing, by which heads turn in time, height and width")
    half = head_dim // 2
    is_right = isinstance(sections, (list, tuple)) and all(type(n) is int and n > 0 for n in sections)
    if not is_right or len(sections) != 3 or sum(sections) != half:
        raise CheckpointError(f"{rope.where}: mrope_section is {sections!r}; expected three numbers that make {half}")
    if rope.flag("mrope_interleaved", is_interleaved) != is_interleaved:
        expected = str(is_interleaved).lower()
        raise CheckpointError(f"{rope.where}: mrope_interleaved is not {expected}, which is all that is supported")
    if is_interleaved and 3 * max(sections[1:]) > half:
        raise CheckpointError(
            f"{rope.where}: mrope_section is {sections!r}; expected the last two to be a third of {half} at most"
        )
    return tuple(sections)


def native_image(checkpoint: Checkpoint, patch_size: int, options: ImageOptions, multiple: int = 1) -> NativeImage:
    """How frames become patches, in the grids of the frames of ``options`` or of usual ones.

    Rows and columns of tokens are multiples of ``multiple``.

    Raises:
        CheckpointError: the image processor does something that isn't supported, or a frame has no grid.
    """
    if options.fit is not None:
        raise CheckpointError(f"{checkpoint.name} keeps a frame's shape; leave --fit out")
    if options.tiles is not None:
        raise CheckpointError(f"{checkpoint.name} looks at a frame as a whole; leave --tiles out")
    settings = Settings(checkpoint.image_processor, "the image processor")
    for key, expected in (("patch_size", patch_size), ("merge_size", MERGE)):
        if (found := settings.size(key, expected)) != expected:
            raise CheckpointError(f"{settings.where} has {key} {found}, and the vision encoder {expected}")
    size = settings.below("size")
    pixels = read_pixels(settings, patch_size, patch_size)
    image = NativeImage(
        kind="native",
        pixels=pixels,
        merge=MERGE,
        least_pixels=settings.size("min_pixels", size.size("shortest_edge", 56 * 56)),
        most_pixels=settings.size("max_pixels", size.size("longest_edge", 28 * 28 * 1280)),
        grids=((multiple, multiple),),
        fill=mean_colour(pixels),
        multiple=multiple,
    )
    if image.least_pixels > image.most_pixels:
        raise CheckpointError(
            f"{settings.where} gives images at least {image.least_pixels} pixels, and {image.most_pixels} at most"
        )
    frames = options.frames or _USUAL_FRAMES
    if flat := [frame for frame in frames if max(frame) > _LARGEST_RATIO * min(frame)]:
        raise CheckpointError(
            f"a frame of {flat[0][0]}x{flat[0][1]} has a side of more than {_LARGEST_RATIO} times the other, which "
            "the model does not take"
        )
    grids = dict.fromkeys(native_grid(image, height, width) for width, height in frames)
    return replace(image, grids=tuple(grids))


def qwen_parameters(
    vit: NativeVitConfig, merger: PatchMerger, llama: LlamaConfig, *, is_tied: bool
) -> dict[str, Parameter]:
    """Every tensor of a whole checkpoint, whose head ``is_tied`` to its embedding or not."""
    decoder = "model.language_model."
    return {
        **under("model.visual.", NativeTower(vit).parameters()),
        **under("model.visual.", merger.parameters()),
        **embedding_matrix(f"{decoder}embed_tokens", llama).parameters(),
        **under(decoder, DecoderGroup(llama, 0, llama.num_layers).parameters()),
        **lm_head(llama, decoder, f"{decoder}embed_tokens" if is_tied else "lm_head").parameters(),
    }


def qwen_parts(
    checkpoint: Checkpoint, vit: NativeVitConfig, merger: PatchMerger, llama: LlamaConfig, group_parameters: int
) -> tuple[Part, ...]:
    """The components of Qwen's vision-language models.

    Raises:
        CheckpointError: the checkpoint lacks one.
    """
    vision = prefix_before(checkpoint, "patch_embed.proj.weight")
    decoder = prefix_before(checkpoint, "layers.0.input_layernorm.weight")
    if vision is None or decoder is None:
        raise CheckpointError(
            f"{checkpoint.name} lacks a vision tower or a decoder under the names that Qwen's models give them; "
            "expected one saved by transformers' Qwen3VLForConditionalGeneration or Qwen2_5_VLForConditionalGeneration"
        )
    head, embedding = find_head(checkpoint)
    return (
        part_of(checkpoint, "vision_encoder", NativeTower(vit), vision),
        part_of(checkpoint, "connector", merger, vision),
        Part("embedding", "embedding", None, embedding_matrix(embedding, llama).parameters(), None),
        *decoder_parts(checkpoint, llama, decoder, group_parameters),
        part_of(checkpoint, "lm_head", lm_head(llama, decoder, head)),
    )


def qwen_vision_work(vit: NativeVitConfig) -> VisionWork:
    """What it takes to see the largest grid."""
    rows = max(vit.grids.patches)
    return VisionWork(
        rows=rows,
        at_a_time=(rows, vit.hidden_size),
        attention_operations=4 * rows**2 * vit.hidden_size * vit.num_layers,
        deepstack=tuple((rows // vit.grids.merge**2, vit.out_width) for _ in vit.taps),
    )
