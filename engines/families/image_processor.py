"""Hugging Face's image processor settings as the runtime's preprocessing; knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.bundle.manifest import PreprocessingSpec
from edge_runtime.errors import CheckpointError
from engines.families.base import Settings

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_RESAMPLES = {2: "bilinear", 3: "bicubic"}


def read_preprocessing(image_processor: Mapping[str, Any], image_size: int) -> PreprocessingSpec:
    """The steps of a CLIP image processor, for a vision encoder that takes ``image_size`` pixels a side.

    Raises:
        CheckpointError: it does something that the runtime's preprocessing cannot.
    """
    settings = Settings(image_processor, "the image processor")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings.flag(step, True):
            raise CheckpointError(f"{settings.where} has {step} false; expected resizing, rescaling and normalizing")
    if settings.flag("do_pad", False):
        raise CheckpointError(f"{settings.where} pads images (do_pad); supported: resizing and a centre crop")
    resample = settings.integer("resample", 3)
    if resample not in _RESAMPLES:
        raise CheckpointError(f"{settings.where} has resample {resample}; supported: {_RESAMPLES}")

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
    return PreprocessingSpec(
        height=image_size,
        width=image_size,
        resize="exact" if resized else "shortest_edge",
        shortest_edge=None if resized else shortest_edge,
        resample=resample,
        rescale_factor=settings.number("rescale_factor", 1 / 255),
        mean=settings.numbers("image_mean", _CLIP_MEAN),
        std=settings.numbers("image_std", _CLIP_STD),
    )


def _sizes(settings: Settings, key: str, name: str, default: int) -> Settings:
    """The object under ``key``, which may be a bare number instead."""
    value = settings.values.get(key, default)
    return Settings({key: {name: value}} if type(value) is int else settings.values, settings.where).below(key)


def _sides(size: Settings) -> tuple[int, int]:
    """Height and width; a height alone makes a square."""
    height = size.size("height", 0)
    return height, size.size("width", height)
