"""Light, lens and sensor: from a painted canvas to the 8-bit frame a drone's camera would deliver."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas


def photograph(canvas: Canvas) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """The frame, uint8 (H, W, 3) BGR, and its labels, uint16 (H, W), seen from the camera's angle."""
    color, labels = _perspective(canvas) if canvas.chance(0.4) else (canvas.color, canvas.labels)
    color = color * illumination(canvas, 0.25, 0.18, (0.65, 1.2))[..., None]
    color *= (1 + canvas.rng.normal(0, 0.035, 3)).astype(np.float32)  # white balance
    np.clip(color, 0, 255, out=color)
    color = np.power(color * np.float32(1 / 255), np.float32(canvas.between(0.8, 1.3))) * np.float32(255)
    contrast = canvas.between(0.8, 1.1)
    color = color * np.float32(contrast) + np.float32((1 - contrast) * canvas.between(90, 190))
    color = _blur(canvas, color)
    noise = canvas.rng.standard_normal((*canvas.labels.shape, 1), np.float32)
    color += noise * np.float32(canvas.between(0.5, 5) * canvas.conditions.noise)
    image = np.clip(color, 0, 255).astype(np.uint8)
    if canvas.chance(0.3):
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(canvas.between(60, 95))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image, labels


def _perspective(canvas: Canvas) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    size = np.array([canvas.width, canvas.height], np.float32)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    source = (corners + canvas.rng.uniform(0.0, 0.14, (4, 2)).astype(np.float32) * (1 - 2 * corners)) * size
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), corners * size)
    whole = (canvas.width, canvas.height)
    color = cv2.warpPerspective(canvas.color, matrix, whole, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    labels = cv2.warpPerspective(canvas.labels, matrix, whole, flags=cv2.INTER_NEAREST)
    return np.asarray(color, np.float32), np.asarray(labels, np.uint16)


def illumination(
    canvas: Canvas, slope_up_to: float, corners_up_to: float, exposure: tuple[float, float]
) -> NDArray[np.float32]:
    """Factors (H, W): a gradient across the frame, darker corners, and the exposure, each drawn within its bound."""
    x = np.linspace(-1, 1, canvas.width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, canvas.height, dtype=np.float32)[:, None]
    slope = np.float32(canvas.between(0, slope_up_to))
    gradient = 1 + slope * (x * np.float32(np.cos(canvas.light_rad)) + y * np.float32(np.sin(canvas.light_rad)))
    vignette = 1 - np.float32(canvas.between(0, corners_up_to)) * (x * x + y * y) / 2
    return np.asarray(gradient * vignette * np.float32(canvas.between(*exposure)), np.float32)


def _blur(canvas: Canvas, color: NDArray[np.float32]) -> NDArray[np.float32]:
    """Defocus, or motion along one direction; light enough that a hairline crack survives it."""
    if canvas.chance(0.45):
        return np.asarray(cv2.GaussianBlur(color, (0, 0), max(canvas.px(canvas.between(0.5, 1.8)), 0.3)), np.float32)
    if canvas.chance(0.2):
        taps = max(int(canvas.px(canvas.between(2, 6))), 1) | 1
        kernel = np.zeros((taps, taps), np.float32)
        angle = canvas.between(0, np.pi)
        for t in np.linspace(-0.5, 0.5, 4 * taps):
            kernel[
                round(taps // 2 + t * (taps - 1) * np.sin(angle)), round(taps // 2 + t * (taps - 1) * np.cos(angle))
            ] = 1
        return np.asarray(cv2.filter2D(color, -1, kernel / kernel.sum()), np.float32)
    return color
