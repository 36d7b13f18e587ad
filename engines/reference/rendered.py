"""Rendered scenes as data sets: what a builder calibrates, verifies and measures on where no photographs are given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.opening import sha256_of_file
from engines.reference.renderer import scenes
from engines.reference.renderer.scenes import AS_TRAINED, FIRST_HELD_OUT_SEED, HARD, Scene, render_scene

__all__ = [
    "AS_TRAINED",
    "FIRST_HELD_OUT_SEED",
    "HARD",
    "RENDERER",
    "Scene",
    "images",
    "render_scene",
    "sha256_of_images",
]

# The renderer's own files, whose text decides what a seed looks like.
RENDERER = ("backdrops", "camera", "canvas", "defects", "distractors", "scenes", "surfaces", "truth")


def images(first_seed: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """``count`` frames, uint8 (H, W, 3) BGR, of consecutive seeds."""
    return (render_scene(seed).image for seed in range(first_seed, first_seed + count))


def sha256_of_images(first_seed: int, count: int) -> str:
    """A hash of what makes those frames: not of pixels, which may differ in the last bit from machine to machine."""
    sources = [Path(scenes.__file__).with_name(f"{name}.py") for name in RENDERER]
    return hashlib.sha256(" ".join([str(first_seed), str(count), *map(sha256_of_file, sources)]).encode()).hexdigest()
