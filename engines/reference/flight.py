"""A rendered inspection flight: the drone passes one scene after another, a few frames at each."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene

SIZE = (480, 640)  # height, width of a frame
_FRAMES_PER_SCENE = 5
_VIEW = 0.9  # part of the scene that is in view at once


def render_flight(seed: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield ``frames`` frames, uint8 (480, 640, 3) BGR, of scenes that were never trained on."""
    rng = np.random.default_rng(seed)
    for index in range(frames):
        step = index % _FRAMES_PER_SCENE
        if step == 0:
            image = render_scene(FIRST_HELD_OUT_SEED + 100_000 * (seed + 1) + index, SIZE).image
            drift = np.linspace(rng.uniform(0, 1 - _VIEW, 2), rng.uniform(0, 1 - _VIEW, 2), _FRAMES_PER_SCENE)
        height, width = SIZE
        left, top = drift[step] * (width, height)
        shift = np.array([[1 / _VIEW, 0, -left / _VIEW], [0, 1 / _VIEW, -top / _VIEW]], np.float32)
        yield np.asarray(cv2.warpAffine(image, shift, (width, height), flags=cv2.INTER_AREA), np.uint8)
