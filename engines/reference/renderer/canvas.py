"""The sheet a scene is painted on, and the noise it is painted with; knows nothing of bridges.

Lengths are given in per-mille of the frame's width (``canvas.px(12)``), so that a scene looks the same at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.float32]  # (H, W, 3), BGR, 0 to 255
Mask = NDArray[np.float32]  # (H, W), 0 to 1

_TILE_PX = 1024


@dataclass(frozen=True)
class Conditions:
    """What makes defects hard to see, beyond what a seed draws; none of it draws anything more."""

    contrast: float = 1.0  # of defects with what they lie on
    size: float = 1.0  # of defects that have an area, in width and height
    crack_kinds: tuple[float, float, float] = (0.45, 0.35, 0.2)  # shares of hairline, fine and wide ones
    distractors: tuple[float, float, float, float] = (0.2, 0.4, 0.25, 0.15)  # shares of scenes with 0, 1, 2 and 3
    noise: float = 1.0  # of the sensor


@dataclass
class Canvas:
    """A picture in the making: colour, what each pixel shows, and where the light comes from.

    ``labels`` has one bit a layer: the defect classes in report order, then the distractors.
    """

    color: Image
    labels: NDArray[np.uint16]  # (H, W)
    rng: np.random.Generator
    light_rad: float  # direction that the light comes from, in the image plane
    conditions: Conditions = Conditions()

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.color.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.color.shape[1])

    def px(self, per_mille: float) -> float:
        """Pixels that ``per_mille`` of the frame's width are."""
        return per_mille * self.width / 1000.0

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def noise(self, grain: float, roughness: float = 0.5) -> Mask:
        """Fractal noise, about -1 to 1; ``grain``: largest feature in per-mille of the width.

        ``roughness`` is the amplitude an octave has of the one above it; 0.5 is cloud-like, 0.8 gritty.
        """
        grain_px = max(self.px(grain), 3.0)
        period = int(np.clip(2 ** round(np.log2(grain_px)), 4, 256))
        tile = _noise_tile(round(roughness * 4) / 4, period)
        zoom = grain_px / period
        height, width = (min(int(side / zoom) + 1, _TILE_PX) for side in (self.height, self.width))
        top = int(self.rng.integers(0, _TILE_PX - height + 1))
        left = int(self.rng.integers(0, _TILE_PX - width + 1))
        patch = tile[top : top + height, left : left + width]
        if self.chance(0.5):
            patch = patch[::-1]
        return np.asarray(cv2.resize(patch, (self.width, self.height), interpolation=cv2.INTER_LINEAR), np.float32)

    # What lies on a pixel is Any below: numpy 2.2, the last for Python 3.10, says float64 of float32 times a number.

    def blend(self, alpha: NDArray[Any], color: ArrayLike) -> None:
        """Lay ``color``, one or one a pixel, over the canvas where ``alpha`` is 1."""
        self.color += alpha[..., None] * (np.asarray(color, np.float32) - self.color)

    def shade(self, factor: NDArray[Any]) -> None:
        """Multiply the light by ``factor``."""
        self.color *= factor[..., None]

    @contextmanager
    def faded(self, contrast: float) -> Iterator[None]:
        """Leave ``contrast`` of what is painted meanwhile."""
        before = self.color.copy()
        yield
        if contrast != 1:
            self.color[...] = before + np.float32(contrast) * (self.color - before)

    def mark(self, where: NDArray[np.bool_], bit: int) -> None:
        """Note that the pixels ``where`` show the layer ``bit``."""
        self.labels[where] |= np.uint16(1 << bit)


@lru_cache(maxsize=32)
def _noise_tile(roughness: float, period: int) -> Mask:
    """A square of fractal noise, standard deviation 0.4, its largest feature ``period`` pixels; the same everywhere."""
    rng = np.random.default_rng(period)
    tile = np.zeros((_TILE_PX, _TILE_PX), np.float32)
    amplitude = 1.0
    while period >= 2:
        lattice = rng.standard_normal((_TILE_PX // period + 3,) * 2).astype(np.float32)
        fine = cv2.resize(lattice, None, fx=period, fy=period, interpolation=cv2.INTER_CUBIC)
        tile += amplitude * fine[:_TILE_PX, :_TILE_PX]
        amplitude, period = amplitude * roughness, period // 2
    return np.asarray(tile / (2.5 * tile.std()), np.float32)


def smoothstep(low: float, high: float, values: Mask) -> Mask:
    """0 below ``low``, 1 above ``high``, an S between."""
    t = np.clip((values - low) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def blob(
    canvas: Canvas, center: tuple[float, float], radii: tuple[float, float], angle_rad: float, ragged: float
) -> Mask:
    """A signed field: above 0 inside an ellipse whose rim is displaced by noise.

    ``center`` in fractions of the frame, ``radii`` in per-mille of its width, ``ragged`` 0 for a clean ellipse to 1.
    """
    x = np.arange(canvas.width, dtype=np.float32)[None, :] - center[0] * canvas.width
    y = np.arange(canvas.height, dtype=np.float32)[:, None] - center[1] * canvas.height
    cos, sin = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    u = (x * cos + y * sin) / np.float32(canvas.px(radii[0]))
    v = (y * cos - x * sin) / np.float32(canvas.px(radii[1]))
    field = 1 - np.sqrt(u * u + v * v)
    return np.asarray(field + ragged * canvas.noise(1.6 * max(radii), 0.5), np.float32)


def streak(canvas: Canvas, source: Mask, length: float) -> Mask:
    """``source`` smeared downwards over ``length`` per-mille, fading, as water carries it."""
    small = cv2.resize(source, None, fx=0.5, fy=0.25, interpolation=cv2.INTER_AREA)
    rows = max(int(canvas.px(length) / 4), 2)
    kernel = np.zeros((2 * rows + 1, 1), np.float32)
    kernel[rows - np.arange(rows), 0] = (1 - np.arange(rows, dtype=np.float32) / rows) ** 2  # taken from above
    smeared = cv2.filter2D(small, cv2.CV_32F, kernel * 2.5 / kernel.sum(), borderType=cv2.BORDER_CONSTANT)
    smeared = np.minimum(cv2.resize(smeared, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), 1)
    columns = cv2.GaussianBlur(canvas.rng.random((1, canvas.width), np.float32), (0, 0), max(canvas.px(4), 0.5))
    columns = (columns - columns.min()) / (np.ptp(columns) + np.float32(1e-6))
    return np.asarray(smeared * columns, np.float32)
