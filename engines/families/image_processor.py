"""Reads Hugging Face's image processor settings as a bundle's image record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.bundle.manifest import PixelSpec, SingleImage, TiledImage
from edge_runtime.errors import CheckpointError
from edge_runtime.vision.image_processors import grid_tokens, tiled_tokens
from engines.families.base import ImageOptions, Settings

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LARGEST_FRAME = 65536  # pixels a side
_RESAMPLES = {1: "Lanczos", 2: "bilinear", 3: "bicubic"}


def read_pixels(
    settings: Settings,
    height: int,
    width: int,
    resample: int = 3,
    mean: tuple[float, ...] = _CLIP_MEAN,
    std: tuple[float, ...] = _CLIP_STD,
) -> PixelSpec:
    """The pixel tensor that an image processor makes, of ``height`` and ``width``; the rest is its class' defaults.

    Raises:
        CheckpointError: it leaves out a step that the vision encoder was trained behind, or is for videos alone.
    """
    kind = settings.values.get("image_processor_type")
    if "video_processor_type" in settings.values or "Video" in str(kind):
        raise CheckpointError(
            f"{settings.where} is for videos ({settings.values.get('video_processor_type', kind)}); expected one for "
            "images: copy preprocessor_config.json, or processor_config.json, from the model's own repository"
        )
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings.flag(step, True):
            raise CheckpointError(f"{settings.where} has {step} false; expected resizing, rescaling and normalizing")
    resample = settings.integer("resample", resample)
    if resample not in _RESAMPLES:
        raise CheckpointError(f"{settings.where} has resample {resample}; supported: {_RESAMPLES}")
    return PixelSpec(
        height=height,
        width=width,
        resample=resample,
        rescale_factor=settings.number("rescale_factor", 1 / 255),
        mean=settings.numbers("image_mean", mean),
        std=settings.positive_numbers("image_std", std),
    )


def read_single_image(
    image_processor: Mapping[str, Any], image_size: int, tokens: int, options: ImageOptions
) -> SingleImage:
    """What a CLIP image processor does, for a vision encoder that takes ``image_size`` pixels a side.

    Where it would crop, frames are padded to squares instead, unless ``options`` say otherwise: LLaVA 1.5 was trained
    on padded squares, and a crop loses the sides of a frame.

    Raises:
        CheckpointError: it does something that the runtime cannot.
    """
    settings = Settings(image_processor, "the image processor")
    if options.frames or options.tiles:
        raise CheckpointError(
            "the model takes one picture of one size, whatever a camera's frames are; leave --frame and --tiles out"
        )
    if settings.flag("do_pad", False):
        raise CheckpointError(f"{settings.where} pads images (do_pad); supported: resizing and a centre crop")
    size = _sizes(settings, "size", "shortest_edge", image_size)
    shortest_edge = size.size("shortest_edge", 0) if "shortest_edge" in size.values else None
    resized = _sides(size) if shortest_edge is None else None
    crops = settings.flag("do_center_crop", True)
    cropped = _sides(_sizes(settings, "crop_size", "height", image_size)) if crops else None
    final = cropped or resized
    if final != (image_size, image_size) or (resized and resized != final):
        raise CheckpointError(
            f"{settings.where} makes images of {final or dict(size.values)}; "
            f"the vision encoder takes {image_size} x {image_size}"
        )
    pixels = read_pixels(settings, image_size, image_size)
    fit = options.fit or ("squeeze" if resized else "letterbox")
    edge = (shortest_edge or image_size) if fit == "crop" else None
    return SingleImage("single", pixels, fit, edge, mean_colour(pixels), tokens)


def check_frames(options: ImageOptions) -> None:
    """Refuse frames that no camera has.

    Raises:
        CheckpointError: one is too large.
    """
    if too_large := [frame for frame in options.frames if max(frame) > _LARGEST_FRAME]:
        raise CheckpointError(f"a frame of {too_large[0][0]}x{too_large[0][1]} is larger than any camera's")


def with_room(image: TiledImage, options: ImageOptions) -> TiledImage:
    """``image`` with room for the tokens of the frames of ``options``, or of any frame.

    Raises:
        CheckpointError: a frame is too large.
    """
    check_frames(options)
    of_frames = [tiled_tokens(image, height, width) for width, height in options.frames]
    return replace(image, max_tokens=max(of_frames or [grid_tokens(image, grid) for grid in image.grids]))


def mean_colour(pixels: PixelSpec) -> tuple[int, ...]:
    """The colour (RGB) that becomes about zero, which LLaVA 1.5 was trained to find beside a frame."""
    return tuple(min(int(mean / pixels.rescale_factor), 255) for mean in pixels.mean)


def _sizes(settings: Settings, key: str, name: str, default: int) -> Settings:
    """The object under ``key``, which may be a bare number instead."""
    value = settings.values.get(key, default)
    return Settings({key: {name: value}} if type(value) is int else settings.values, settings.where).below(key)


def _sides(size: Settings) -> tuple[int, int]:
    """Height and width; a height alone makes a square."""
    height = size.size("height", 0)
    return height, size.size("width", height)
