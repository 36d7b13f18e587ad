"""LLaVA 1.6 (LLaVA-NeXT): LLaVA's parts, over an overview and tiles of the frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.bundle.manifest import PixelSpec, TiledImage
from edge_runtime.errors import CheckpointError
from edge_runtime.vision.image_processors import tiled_tokens
from engines.checkpoint import Checkpoint
from engines.families.base import ImageOptions, Model, Settings
from engines.families.image_processor import check_frames, read_pixels
from engines.families.llava import LlavaConfig, llava_model, read_config


def read_llava_next(checkpoint: Checkpoint, group_parameters: int, options: ImageOptions) -> Model:
    """A LLaVA 1.6 checkpoint over Mistral or LLaMA, for the frames of ``options``, or any.

    Raises:
        CheckpointError: it is none, or has a part that isn't supported.
    """
    if options.fit is not None:
        raise CheckpointError(
            f"{checkpoint.name} looks at a frame in tiles, which are fitted in one way only; leave --fit out"
        )
    if options.tiles is not None:
        raise CheckpointError(f"config.json of {checkpoint.name} lists the grids of tiles; leave --tiles out")
    config = read_next_config(checkpoint.config, checkpoint.generation_config)
    newlines = [name for name in checkpoint if name.endswith("image_newline")]
    if len(newlines) != 1:
        raise CheckpointError(f"{checkpoint.name} holds {len(newlines)} tensors image_newline, expected one")
    image = tiled_image(checkpoint, config, options)
    return llava_model(checkpoint, config, image, group_parameters, "llava_next", newlines[0])


def tiled_image(checkpoint: Checkpoint, config: LlavaConfig, options: ImageOptions) -> TiledImage:
    """How frames become tiles, and how many tokens they take at most.

    Raises:
        CheckpointError: the image processor or the grids are malformed, or a frame is too large.
    """
    side = config.vit.image_size
    pixels = read_pixels(Settings(checkpoint.image_processor, "the image processor"), side, side)
    image = TiledImage(
        kind="tiles",
        pixels=pixels,
        grids=_read_grids(checkpoint.config, pixels),
        overview="first",
        fill=(0, 0, 0),
        tile_tokens=(config.vit.grid, config.vit.grid),
        frames=options.frames,
        max_tokens=2**20 - 1,
    )
    # Of any frame, a grid's own shape takes most of its tokens, as nothing of it is padding.
    shapes = [(rows * side, columns * side) for rows, columns in image.grids]
    sizes = [(height, width) for width, height in options.frames] or shapes
    check_frames(options)
    return replace(image, max_tokens=max(tiled_tokens(image, *size) for size in sizes))


def read_next_config(values: Mapping[str, Any], generation: Mapping[str, Any]) -> LlavaConfig:
    """The settings as LLaVA's own; Mistral without its sliding window computes what LLaMA does.

    Raises:
        CheckpointError: a setting is malformed or not supported.
    """
    text = Settings(values).below("text_config")
    decoder = text.choice("model_type", "llama", ("llama", "mistral", "qwen3"))
    if text.values.get("sliding_window") is not None:
        raise CheckpointError(
            f"{text.where}: sliding_window is {text.values['sliding_window']!r}; supported: null, to see everything"
        )
    Settings(values).choice("vision_feature_select_strategy", "default", ("default",))
    return read_config(
        {**values, "text_config": {**text.values, "model_type": "llama" if decoder == "mistral" else decoder}},
        generation,
    )


def _read_grids(values: Mapping[str, Any], pixels: PixelSpec) -> tuple[tuple[int, int], ...]:
    """Rows and columns of tiles, of the sizes (height, width) that the settings list."""
    grids, side = values.get("image_grid_pinpoints"), pixels.height
    if not isinstance(grids, list) or not grids or not all(_is_grid(grid, side) for grid in grids):
        raise CheckpointError(
            f"config.json: image_grid_pinpoints is {grids!r}; expected a list of sizes in multiples of {side} pixels"
        )
    return tuple((height // side, width // side) for height, width in grids)


def _is_grid(grid: object, side: int) -> bool:
    return isinstance(grid, list) and len(grid) == 2 and all(type(n) is int and n > 0 and n % side == 0 for n in grid)
