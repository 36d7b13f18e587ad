"""What bridges are made of: concrete, painted steel, bare steel and masonry, undamaged; knows no defects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas, blob, smoothstep

# Words as they stand in a description.
SURFACES = ("concrete", "painted steel", "bare steel", "masonry")


def paint_surface(canvas: Canvas, surface: str) -> None:
    """Cover the whole canvas with ``surface``, one of :data:`SURFACES`."""
    _PAINTERS[surface](canvas)


def _concrete(canvas: Canvas) -> None:
    tint = canvas.rng.uniform(-1, 1, 3) * (5, 3, 6) + (-4, 0, 3)
    canvas.color[:] = canvas.between(105, 215) + tint.astype(np.float32)
    mottle = canvas.between(4, 18) * canvas.noise(canvas.between(250, 900))
    grit = canvas.between(2, 13) * canvas.noise(canvas.between(8, 40), 0.75)
    canvas.color += (mottle + grit)[..., None]
    if canvas.chance(0.5):
        _pores(canvas)
    if canvas.chance(0.3):
        _bugholes(canvas)
    if canvas.chance(0.35):  # shallow pits and skin that came off with the form
        pits = smoothstep(canvas.between(0.35, 0.6), 0.75, canvas.noise(canvas.between(20, 70), 0.5))
        canvas.shade(1 - pits * np.float32(canvas.between(0.06, 0.35)))
    if canvas.chance(0.25):  # years of rain
        runs = cv2.blur(canvas.noise(canvas.between(15, 60), 0.75), (1, int(canvas.px(250)) | 1))
        canvas.color += (canvas.between(10, 45) * runs)[..., None]
    if canvas.chance(0.25):  # board marks
        period = canvas.px(canvas.between(60, 160))
        across = np.arange(canvas.height if canvas.chance(0.5) else canvas.width, dtype=np.float32)
        tone = canvas.rng.normal(0, canvas.between(1, 7), 64).astype(np.float32)[(across / period).astype(int) % 64]
        canvas.color += tone[:, None, None] if len(across) == canvas.height else tone[None, :, None]


def _pores(canvas: Canvas) -> None:
    mask = np.zeros((canvas.height, canvas.width), np.uint8)
    for _ in range(int(canvas.rng.integers(5, 70))):
        center = (int(canvas.rng.integers(canvas.width)), int(canvas.rng.integers(canvas.height)))
        cv2.circle(mask, center, max(int(canvas.px(canvas.between(0.5, 3.5))), 0), 255, -1, cv2.LINE_AA)
    canvas.shade(1 - mask.astype(np.float32) * np.float32(canvas.between(0.15, 0.5) / 255))


def _bugholes(canvas: Canvas) -> None:
    """What trapped air and the form leave: flat blotches drawn out along the boards, and a few real holes."""
    grain = canvas.between(8, 40)
    tall = cv2.resize(canvas.noise(grain, 0.5), None, fx=1, fy=canvas.between(1, 4), interpolation=cv2.INTER_LINEAR)
    low = canvas.between(0.45, 0.8)
    blotches = smoothstep(low, low + 0.1, np.asarray(tall[: canvas.height], np.float32))
    canvas.shade(1 - blotches * np.float32(canvas.between(0.05, 0.3)))
    for _ in range(int(canvas.rng.integers(0, 8))):
        center = (canvas.between(0, 1), canvas.between(0, 1))
        radius = canvas.between(3, 14)
        hole = blob(canvas, center, (radius, radius * canvas.between(0.5, 1)), canvas.between(0, np.pi), 0.3)
        canvas.shade(1 - smoothstep(0.0, 0.3, hole) * np.float32(canvas.between(0.3, 0.75)))


_PAINTS = (  # BGR
    (150, 150, 145), (120, 135, 110), (90, 120, 80), (165, 140, 100), (190, 195, 195), (140, 105, 70), (70, 75, 80),
    (170, 205, 215), (110, 160, 110), (200, 170, 130),
)  # fmt: skip


def _painted_steel(canvas: Canvas) -> None:
    paint = np.asarray(_PAINTS[int(canvas.rng.integers(len(_PAINTS)))], np.float32)
    canvas.color[:] = np.clip(paint * canvas.between(0.75, 1.2) + canvas.rng.normal(0, 6, 3), 20, 235)
    canvas.color += (canvas.between(1, 8) * canvas.noise(canvas.between(300, 1000)))[..., None]
    canvas.color += (canvas.between(0.5, 5) * canvas.noise(canvas.between(4, 20), 0.75))[..., None]
    _steel_details(canvas)


def _bare_steel(canvas: Canvas) -> None:
    canvas.color[:] = canvas.between(90, 180) + canvas.rng.normal(0, 3, 3) + (4, 1, -2)
    brushed = canvas.noise(canvas.between(5, 15), 0.75)
    horizontal = canvas.chance(0.5)
    size = (int(canvas.px(canvas.between(20, 90))) | 1, 1)
    brushed = np.asarray(cv2.blur(brushed, size if horizontal else size[::-1]), np.float32)
    canvas.color += (canvas.between(10, 30) * brushed + canvas.between(4, 14) * canvas.noise(500))[..., None]
    _steel_details(canvas)


def _steel_details(canvas: Canvas) -> None:
    """Plate edges, weld seams, and rows of rivets or bolts."""
    if canvas.chance(0.35):  # a plate edge: light on one side, shadow on the other
        at = canvas.between(0.1, 0.9)
        along_x = canvas.chance(0.5)
        span = canvas.height if along_x else canvas.width
        line, thick = int(at * span), max(int(canvas.px(canvas.between(3, 10))), 1)
        band = canvas.color[line : line + thick] if along_x else canvas.color[:, line : line + thick]
        band *= canvas.between(0.45, 0.85)
        rest = canvas.color[line + thick :] if along_x else canvas.color[:, line + thick :]
        rest *= canvas.between(0.82, 1.12)
    if canvas.chance(0.2):  # a weld seam: a rippled bright bead
        y = np.arange(canvas.height, dtype=np.float32)[:, None] - canvas.between(0.1, 0.9) * canvas.height
        x = np.arange(canvas.width, dtype=np.float32)[None, :]
        bead = np.exp(-((y / canvas.px(canvas.between(5, 11))) ** 2))
        ripple = 1 + np.float32(0.25) * np.sin(x / canvas.px(3.0) + (y / canvas.px(5.0)) ** 2)
        canvas.color += (canvas.between(10, 35) * bead * ripple - canvas.between(5, 20) * bead)[..., None]
    if canvas.chance(0.45):
        _rivets(canvas)


def _rivets(canvas: Canvas) -> None:
    radius = max(canvas.px(canvas.between(6, 16)), 1.5)
    pitch = canvas.px(canvas.between(50, 130))
    start, rows = canvas.rng.uniform(0, 1, 2) * (canvas.width, canvas.height), int(canvas.rng.integers(1, 3))
    along_x = canvas.chance(0.5)
    lit, dark = (np.zeros((canvas.height, canvas.width), np.uint8) for _ in range(2))
    offset = radius * 0.4 * np.array([np.cos(canvas.light_rad), np.sin(canvas.light_rad)])
    for row in range(rows):
        for step in range(int(max(canvas.width, canvas.height) / pitch) + 1):
            along, across = step * pitch, start[1 if along_x else 0] + row * pitch
            center = np.array([along, across] if along_x else [across, along])
            cv2.circle(dark, _int2(center - offset), int(radius), 255, -1, cv2.LINE_AA)
            cv2.circle(lit, _int2(center + 0.5 * offset), int(radius * 0.8), 255, -1, cv2.LINE_AA)
    canvas.shade(1 - dark.astype(np.float32) * np.float32(canvas.between(0.2, 0.45) / 255))
    canvas.shade(1 + lit.astype(np.float32) * np.float32(canvas.between(0.15, 0.5) / 255))


def _masonry(canvas: Canvas) -> None:
    brick = canvas.chance(0.6)
    base = (
        np.array([canvas.between(55, 100), canvas.between(75, 120), canvas.between(130, 190)])
        if brick
        else canvas.between(110, 190) + np.array([-14.0, 0.0, 8.0]) * canvas.between(0, 1.5)
    )
    course = canvas.px(canvas.between(55, 110) if brick else canvas.between(120, 300))
    length = course * canvas.between(1.8, 3.0)
    joint = max(canvas.px(canvas.between(4, 14)), 1.2)
    wobble = canvas.px(3) * canvas.noise(120)
    y = np.arange(canvas.height, dtype=np.float32)[:, None] + wobble + canvas.between(0, course)
    row = np.floor(y / course)
    x = np.arange(canvas.width, dtype=np.float32)[None, :] + wobble + (row % 2) * length / 2
    column = np.floor(x / length)
    tones = canvas.rng.normal(0, 1, (97, 1)) + canvas.rng.normal(0, 0.35, (97, 3))
    tone = tones.astype(np.float32)[((row * 31 + column * 17) % 97).astype(int)]
    canvas.color[:] = base.astype(np.float32) + canvas.between(4, 14) * tone
    canvas.color += (canvas.between(4, 16) * canvas.noise(canvas.between(10, 50), 0.75))[..., None]
    distance = np.minimum(np.minimum(y % course, course - y % course), np.minimum(x % length, length - x % length))
    mortar = 1 - smoothstep(joint * 0.35, joint * 0.65, distance)
    gray = canvas.between(95, 195)
    canvas.blend(mortar, (gray - 5, gray, gray + 4))


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "concrete": _concrete,
    "painted steel": _painted_steel,
    "bare steel": _bare_steel,
    "masonry": _masonry,
}


def _int2(point: NDArray[Any]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
