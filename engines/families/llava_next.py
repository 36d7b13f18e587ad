"""LLaVA 1.6 (LLaVA-NeXT): LLaVA's parts, over an image in tiles; plans it, and cannot emit it yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.errors import CheckpointError
from engines.checkpoint import Checkpoint
from engines.families.base import Model, Part, Settings
from engines.families.llava import LlavaConfig, llava_model, read_config, vision_work
from engines.layers.parameters import Parameter

_WHY_NOT = "images in tiles are not preprocessed onboard yet"


def read_llava_next(checkpoint: Checkpoint, group_parameters: int) -> Model:
    """A LLaVA 1.6 checkpoint over Mistral or LLaMA, with the most tiles and tokens that an image can have.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    config = read_next_config(checkpoint.config, checkpoint.generation_config)
    tiles, num_image_tokens = _largest_grid(checkpoint.config, config)
    image_processor = {**checkpoint.image_processor, "do_pad": False}  # of the tiles, to the grid's shape
    model = llava_model(checkpoint, config, image_processor, group_parameters)
    return replace(
        model,
        family="llava_next",
        spec=replace(model.spec, num_image_tokens=num_image_tokens),
        parts=tuple(_with_newline(part, checkpoint, model.spec.hidden_size) for part in model.parts),
        vision=vision_work(config.vit, tiles),
        only_planned=_WHY_NOT,
    )


def read_next_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> LlavaConfig:
    """The settings as LLaVA's own; Mistral without its sliding window computes what LLaMA does.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    text = Settings(values).below("text_config")
    text.choice("model_type", "llama", ("llama", "mistral"))
    if text.values.get("sliding_window") is not None:
        raise CheckpointError(
            f"{text.where}: sliding_window is {text.values['sliding_window']!r}; supported: null, to see everything"
        )
    return read_config({**values, "text_config": {**text.values, "model_type": "llama"}}, generation)


def _largest_grid(values: Mapping[str, Any], config: LlavaConfig) -> tuple[int, int]:
    """The tiles of the image that has most tokens, with the one that shows it whole, and how many tokens.

    Tokens: LlavaNextProcessor in transformers; every row of patches of the grid ends with a newline's.
    """
    side, patch = config.vit.image_size, config.vit.patch_size
    grids = values.get("image_grid_pinpoints")
    if not isinstance(grids, list) or not grids or not all(_is_grid(grid, side) for grid in grids):
        raise CheckpointError(
            f"config.json: image_grid_pinpoints is {grids!r}; expected a list of sizes in multiples of {side} pixels"
        )
    tokens, tiles = max(
        (height // patch * (width // patch + 1), height // side * (width // side)) for height, width in grids
    )
    return tiles + 1, tokens + (side // patch) ** 2


def _is_grid(grid: object, side: int) -> bool:
    return isinstance(grid, list) and len(grid) == 2 and all(type(n) is int and n > 0 and n % side == 0 for n in grid)


def _with_newline(part: Part, checkpoint: Checkpoint, width: int) -> Part:
    if part.kind != "connector":
        return part
    name = next((name for name in checkpoint if name.endswith("image_newline")), "image_newline")
    return replace(part, parameters={**part.parameters, name: Parameter((width,))})
