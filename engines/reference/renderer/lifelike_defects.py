"""Cracks and rust as photographs have them: faint, broken, to the frame's edge; grainy, and over whole frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas, blob, smoothstep, streak
from engines.reference.renderer.defects import BITS, CRACK_WIDTHS, crack_path, draw_path

_NARROWEST, _USUAL, _WIDEST = (
    3.0,
    18.0,
    50.0,
)  # per-mille of the frame's width; close-ups show cracks wider than defects.py draws
_LOCAL_PX = 7


def paint_cracks(canvas: Canvas) -> dict[str, str]:
    """Draw one to four cracks of one kind, mark them whole, gaps and all; returns the facts of the longest."""
    width = float(np.exp(canvas.between(np.log(_NARROWEST), np.log(_USUAL))))
    if canvas.chance(0.08):
        width = canvas.between(_USUAL, _WIDEST)
    width_px = max(canvas.px(width), 0.8)
    count = int(canvas.rng.choice((1, 2, 3, 4), p=(0.6, 0.22, 0.12, 0.06)))
    mask, gaps = (np.zeros((canvas.height, canvas.width), np.uint8) for _ in range(2))
    open_share = 1 - (canvas.between(0.1, 0.7) if canvas.chance(0.5) else 0.0)
    spans = []
    for index in range(count):
        path = _across(canvas) if canvas.chance(0.75) else _inside(canvas)
        widths = width_px * (1.0 if index == 0 else canvas.between(0.5, 1.0))
        along = _uneven(canvas, len(path) - 1, widths)
        draw_path(mask, path, along)
        draw_path(gaps, path, np.where(_open(canvas, len(path) - 1, open_share), along, 0))
        spans.append(path[-1] - path[0])
    visible = np.asarray(gaps, np.float32) / 255
    if canvas.chance(0.5):
        visible = np.asarray(cv2.GaussianBlur(visible, (0, 0), max(canvas.px(canvas.between(1, 3)), 0.3)), np.float32)
    darkness = float(np.exp(canvas.between(np.log(0.06), np.log(0.85))))
    darkness = min(max(darkness, _roughness(canvas)), 0.85)  # fainter than the grain, nobody sees it
    patchy = 1 - np.float32(canvas.between(0, 0.35)) * smoothstep(0.0, 0.6, canvas.noise(70))
    if width_px > 3 and canvas.chance(0.5):  # a worn rim
        halo = np.asarray(cv2.GaussianBlur(visible, (0, 0), width_px), np.float32)
        canvas.shade(1 - halo * np.float32(canvas.between(-0.1, 0.25) * darkness))
    canvas.shade(1 - visible * np.float32(darkness) * patchy)
    canvas.mark(mask > 76, BITS["crack"])
    longest = max(spans, key=lambda span: float(np.hypot(*span)))
    return {"width": _kind(width), "direction": _direction_word(longest)}


def _across(canvas: Canvas) -> NDArray[Any]:
    """A path from beyond one edge of the frame to beyond another."""
    size = np.array([canvas.width, canvas.height])
    middle = canvas.rng.uniform(0.1, 0.9, 2) * size
    heading = canvas.between(0, np.pi)
    length = 1300 * float(np.hypot(1, canvas.height / canvas.width))
    start = middle - 0.5 * canvas.px(length) * np.array([np.cos(heading), np.sin(heading)])
    return crack_path(canvas, start, heading, length, canvas.between(0.1, 0.45))


def _inside(canvas: Canvas) -> NDArray[Any]:
    size = np.array([canvas.width, canvas.height])
    start = canvas.rng.uniform(0.1, 0.9, 2) * size
    return crack_path(canvas, start, canvas.between(0, 2 * np.pi), canvas.between(200, 800), canvas.between(0.1, 0.5))


def _uneven(canvas: Canvas, segments: int, width_px: float) -> NDArray[Any]:
    drift = np.cumsum(canvas.rng.normal(0, 0.12, segments))
    return np.asarray(width_px * np.exp(np.clip(drift - drift.mean(), -0.9, 0.6)))


def _open(canvas: Canvas, segments: int, share: float) -> NDArray[np.bool_]:
    """Which segments are seen: about ``share`` of them, in runs."""
    rough = cv2.GaussianBlur(canvas.rng.random((1, segments), np.float32), (0, 0), max(segments / 40, 0.6))[0]
    return np.asarray(rough <= np.quantile(rough, share))


def _roughness(canvas: Canvas) -> float:
    """Deviation within 7 pixels, as a share of the mean: what a crack must be darker than to be seen."""
    grey = canvas.color.mean(2)
    squares = cv2.blur(grey * grey, (_LOCAL_PX, _LOCAL_PX)) - cv2.blur(grey, (_LOCAL_PX, _LOCAL_PX)) ** 2
    return float(np.sqrt(np.median(np.maximum(squares, 0))) / max(float(grey.mean()), 1.0))


def _kind(width: float) -> str:
    for kind, (_, upper) in CRACK_WIDTHS.items():
        if width < upper:
            return kind
    return "wide"


def _direction_word(span: NDArray[Any]) -> str:
    slope = np.degrees(np.arctan2(abs(span[1]), abs(span[0])))
    return "horizontal" if slope < 25 else "vertical" if slope > 65 else "diagonal"


def paint_rust(canvas: Canvas, grain: Callable[[Canvas], NDArray[np.float32]]) -> dict[str, str]:
    """Draw rust with the grain and the specks that a camera sees, at times over the whole frame, and mark it."""
    kind = canvas.rng.choice(("patch", "large", "whole", "specks"), p=(0.25, 0.4, 0.15, 0.2))
    spread = {"patch": canvas.between(60, 250), "specks": canvas.between(200, 900)}.get(kind, canvas.between(350, 900))
    center = (canvas.between(0.1, 0.9), canvas.between(0.1, 0.9))
    ragged = canvas.between(0.4, 0.9)
    field = blob(canvas, center, (spread, spread * canvas.between(0.4, 1.0)), canvas.between(0, np.pi), ragged)
    if kind == "whole":
        field = field + np.float32(2.0)
    elif kind == "specks":
        specks = canvas.noise(canvas.between(12, 60), 0.75) - np.float32(canvas.between(0.0, 0.4))
        field = np.minimum(field, specks)
    field = field + np.float32(canvas.between(0.05, 0.3)) * canvas.noise(canvas.between(20, 60), 0.75)
    alpha = smoothstep(0.0, canvas.between(0.05, 0.4), field)
    deep = smoothstep(-0.3, 0.7, canvas.noise(canvas.between(30, 200), 0.75))
    light, dark = _rust_color(canvas, 110, 215), _rust_color(canvas, 45, 115)
    rust = light + deep[..., None] * (dark - light)
    rust *= 1 + np.float32(canvas.between(0.1, 0.32)) * grain(canvas)[..., None]
    if canvas.chance(0.4):
        run = streak(canvas, alpha, canvas.between(60, 400)) * (1 - alpha)
        canvas.blend(run * np.float32(canvas.between(0.2, 0.6)), light * np.float32(0.85))
    if canvas.chance(0.3):  # pale flakes left on it
        flakes = smoothstep(0.25, 0.5, canvas.noise(canvas.between(15, 70), 0.75))
        rust = rust + flakes[..., None] * np.float32(canvas.between(0.3, 0.8)) * (canvas.color - rust)
    canvas.blend(alpha * np.float32(canvas.between(0.7, 1.0)), np.clip(rust, 0, 255))
    canvas.mark(alpha > 0.5, BITS["corrosion"])
    return {}


def _rust_color(canvas: Canvas, low: float, high: float) -> NDArray[np.float32]:
    """Orange to brown of a red between ``low`` and ``high``: BGR."""
    red = canvas.between(low, high)
    return np.array([red * canvas.between(0.18, 0.55), red * canvas.between(0.45, 0.72), red], np.float32)
