"""Qwen2.5-VL: a tower whose patches mostly attend within windows, and a Qwen2 decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.bundle.manifest import CoordinateSpec, NativeImage, PositionSpec
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.schema import BRIDGE
from engines.checkpoint import Checkpoint
from engines.families.base import ImageOptions, Model, Settings
from engines.families.chat_template import tokenizer_of
from engines.families.llava import read_llama, spec_of, stop_tokens, token_ids
from engines.families.qwen3_vl import (
    MERGE,
    QwenVlConfig,
    axial_theta,
    check_tower,
    native_image,
    qwen_parts,
    qwen_prompt,
    qwen_vision_work,
    read_sections,
)
from engines.layers.decoder import LlamaConfig
from engines.layers.native_tower import Grids, NativeVitConfig, PatchMerger

_INSTRUCTION = BRIDGE.instruction(1, "pixels")  # until a build asks for another schema
_DEFAULTS = {"vocab_size": 152064, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5}


def read_qwen2_5_vl(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A Qwen2.5-VL checkpoint (Cosmos-Reason1 is one), for the frames of ``options``, or for usual ones.

    A frame's sides are rounded to whole windows, and not to whole tokens alone, so that no window is cut.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    config = read_qwen2_5_vl_config(checkpoint.config, checkpoint.generation_config)
    llama, window = config.llama, config.vit.grids.window
    image = native_image(checkpoint, config.vit.patch_size, options, window)
    vit = replace(config.vit, grids=Grids(image.grids, image.merge, window))
    eos = stop_tokens(tokenizer_of(checkpoint), config.eos_token_ids, "<|im_end|>")
    return Model(
        family="qwen2_5_vl",
        spec=spec_of(llama, config.bos_token_id, eos, config.image_token_id),
        image=image,
        prompt=qwen_prompt(checkpoint, _INSTRUCTION, config.image_token_id),
        positions=PositionSpec("mrope", llama.rotary, config.sections, "sectioned"),
        parts=qwen_parts(checkpoint, vit, window_merger(vit), llama, group_parameters),
        vision=qwen_vision_work(vit),
        coordinates=CoordinateSpec(_longest_side(image), "pixels"),
    )


def read_qwen2_5_vl_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> QwenVlConfig:
    """The settings, with the defaults of ``Qwen2_5_VLConfig`` in transformers.

    The decoder's lie below ``text_config``, or beside ``vision_config`` where an older version saved them.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    settings = Settings(values)
    vision = settings.below("vision_config")
    text = settings.below("text_config") if "text_config" in values else settings
    vision.choice("model_type", "qwen2_5_vl_vision", ("qwen2_5_vl_vision", "qwen2_5_vl"))
    text.choice("model_type", "qwen2_5_vl_text", ("qwen2_5_vl_text", "qwen2_5_vl"))
    text = Settings({**_DEFAULTS, **_without_mrope_type(text.values)}, text.where)
    llama = read_llama(text, "qwen2")
    eos = generation.get("eos_token_id", text.values.get("eos_token_id", 151645))
    return QwenVlConfig(
        vit=_read_vision(vision, llama),
        llama=llama,
        sections=read_sections(text, llama.head_dim, is_interleaved=False),
        image_token_id=settings.integer("image_token_id", 151655),
        bos_token_id=text.integer("bos_token_id", 151643),
        eos_token_ids=token_ids(eos),
    )


def window_merger(vit: NativeVitConfig) -> PatchMerger:
    """What makes tokens of patches, by the names of ``Qwen2_5_VLPatchMerger``."""
    return PatchMerger("merger.", vit, names=("ln_q", "mlp.0", "mlp.2"))


def _without_mrope_type(text: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose positions are not called ``mrope``: that is how they are counted, and not how scaled."""
    found = dict(text)
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := found.get(key), Mapping):
            found[key] = {name: value for name, value in rope.items() if value != "mrope"}
    return found


def _read_vision(vision: Settings, llama: LlamaConfig) -> NativeVitConfig:
    width, heads, layers = vision.size("hidden_size", 3584), vision.size("num_heads", 16), vision.size("depth", 32)
    check_tower(vision, llama, width, heads)
    patch, window = vision.size("patch_size", 14), vision.size("window_size", 112)
    if window % (patch * MERGE):
        raise CheckpointError(
            f"{vision.where}: window_size is {window}; supported: a multiple of {patch * MERGE}, of whole tokens"
        )
    full = vision.values.get("fullatt_block_indexes", [7, 15, 23, 31])
    if not isinstance(full, (list, tuple)) or not all(type(n) is int and 0 <= n < layers for n in full):
        raise CheckpointError(
            f"{vision.where}: fullatt_block_indexes is {full!r}; expected numbers of the {layers} layers"
        )
    return NativeVitConfig(
        patch_size=patch,
        frames=vision.size("temporal_patch_size", 2),
        hidden_size=width,
        intermediate_size=vision.size("intermediate_size", 3420),
        num_heads=heads,
        num_layers=layers,
        table_side=None,
        theta=axial_theta(vision),
        layer_norm_eps=1e-6,
        activation=vision.choice("hidden_act", "silu", ("silu",)),
        taps=(),
        out_width=llama.hidden_size,
        grids=Grids((), MERGE, window // (patch * MERGE)),
        has_means=False,
        is_gated=True,
        has_patch_bias=False,
        full_layers=tuple(full),
    )


def _longest_side(image: NativeImage) -> int:
    """Pixels of the longest side of any grid."""
    sides = (image.merge * image.pixels.height, image.merge * image.pixels.width)
    return max(n * side for grid in image.grids for n, side in zip(grid, sides, strict=True))
