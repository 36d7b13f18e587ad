"""Pictures with texture, and what a camera does to them between two frames."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


def wall(seed: int = 0, height: int = 480, width: int = 640) -> Frame:
    """Concrete, as far as structure goes: smooth noise of several sizes."""
    random = np.random.default_rng(seed)
    grey = np.full((height, width), 128.0, np.float32)
    for cells, strength in ((6, 40), (20, 25), (80, 12)):
        noise = random.standard_normal((cells * height // width + 1, cells)).astype(np.float32)
        grey += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(np.clip(grey, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR).astype(np.uint8)


def moved(frame: Frame, dx: float, dy: float) -> Frame:
    """The picture shifted by fractions of the frame."""
    height, width = frame.shape[:2]
    move = np.array([[1, 0, dx * width], [0, 1, dy * height]], np.float32)
    return cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.uint8)


def noisy(frame: Frame, seed: int, deviation: float = 5.0) -> Frame:
    return np.clip(frame + np.random.default_rng(seed).normal(0, deviation, frame.shape), 0, 255).astype(np.uint8)


def brighter(frame: Frame, factor: float = 1.1) -> Frame:
    return np.clip(frame * factor, 0, 255).astype(np.uint8)


def compressed(frame: Frame, quality: int = 50) -> Frame:
    encoded = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(np.uint8)


def cracked(frame: Frame, width_px: int = 4) -> Frame:
    """The picture with a dark crack from top to bottom."""
    height, width = frame.shape[:2]
    y = np.arange(0, height + 12, 12)
    x = width // 3 + np.cumsum(np.random.default_rng(5).normal(0, 4, y.size))
    line = np.stack([x, y], axis=1).astype(np.int32)
    return cv2.polylines(frame.copy(), [line], False, (35, 35, 35), width_px, cv2.LINE_AA).astype(np.uint8)
