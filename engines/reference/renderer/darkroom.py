"""From a painted canvas to what a camera's own processing makes of it: halos, resampling and JPEG included."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.camera import illumination
from engines.reference.renderer.canvas import Canvas


def develop(canvas: Canvas, is_photograph: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """The frame, uint8 (H, W, 3) BGR, and its labels, uint16 (H, W).

    On a canvas that ``is_photograph`` there is noise, blur and light enough: only what comes after is done to it.
    """
    color = canvas.color
    if not is_photograph:
        color = color * illumination(canvas, 0.1, 0.08, (0.6, 1.25))[..., None]
        color *= (1 + canvas.rng.normal(0, 0.03, 3)).astype(np.float32)  # white balance
        np.clip(color, 0, 255, out=color)
        gamma = np.float32(canvas.between(0.85, 1.2))
        color = np.power(color * np.float32(1 / 255), gamma) * np.float32(255)
        if canvas.chance(0.5):
            spread = max(canvas.px(canvas.between(0.8, 4)), 0.3)
            color = np.asarray(cv2.GaussianBlur(color, (0, 0), spread), np.float32)
        noise = canvas.rng.standard_normal((*canvas.labels.shape, 1), np.float32)
        color += noise * np.float32(np.exp(canvas.between(np.log(0.5), np.log(8))))
    if canvas.chance(0.5):
        color = _unsharp(canvas, color, canvas.between(0.3, 1.5))
    image = np.clip(color, 0, 255).astype(np.uint8)
    if canvas.chance(0.7):
        image = _delivered(canvas, image)
    return image, canvas.labels


def _unsharp(canvas: Canvas, color: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    soft = cv2.GaussianBlur(color, (0, 0), max(canvas.px(canvas.between(2, 8)), 0.5))
    return np.asarray(color + np.float32(amount) * (color - soft), np.float32)


def _delivered(canvas: Canvas, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resized there and back, sharpened at times, and JPEG: in that order, as an upload does it."""
    height, width = image.shape[:2]
    scale = canvas.between(0.6, 1.6)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    color = np.asarray(small, np.float32)
    if canvas.chance(0.4):
        color = _unsharp(canvas, color, canvas.between(0.2, 1.0))
    quality = int(canvas.between(75, 98))
    _, data = cv2.imencode(".jpg", np.clip(color, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    back = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(read, (width, height), interpolation=back), np.uint8)
