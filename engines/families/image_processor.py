"""Reads Hugging Face's image processor settings as a bundle's image record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.bundle.manifest import PixelSpec, SingleImage
from edge_runtime.errors import CheckpointError
from engines.families.base import ImageOptions, Settings

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLES = {1: "Lanczos", 2: "bilinear", 3: "bicubic"}


def read_pixels(settings: Settings, height: int, width: int) -> PixelSpec:
    """The pixel tensor that an image processor makes, of ``height`` and ``width``.

    Raises:
        CheckpointError: it leaves out a step that the vision encoder was trained behind.
    """
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings.flag(step, True):
            raise CheckpointError(f"{settings.where} has {step} false; expected resizing, rescaling and normalizing")
    resample = settings.integer("resample", 3)
    if resample not in _RESAMPLES:
        raise CheckpointError(f"{settings.where} has resample {resample}; supported: {_RESAMPLES}")
    return PixelSpec(
        height=height,
        width=width,
        resample=resample,
        rescale_factor=settings.number("rescale_factor", 1 / 255),
        mean=settings.numbers("image_mean", _CLIP_MEAN),
        std=settings.numbers("image_std", _CLIP_STD),
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
    if options.frames:
        raise CheckpointError(
            "the model takes one picture of one size, whatever a camera's frames are; leave --frame out"
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
