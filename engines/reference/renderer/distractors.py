"""What is no defect and looks like one: shadows, formwork joints, stains, water marks, rust-coloured paint, moss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas, blob, smoothstep, streak
from engines.reference.renderer.defects import BITS as DEFECT_BITS

DISTRACTORS = ("shadow", "joint", "stain", "water_mark", "rust_paint", "moss")
BITS = {name: len(DEFECT_BITS) + index for index, name in enumerate(DISTRACTORS)}


def paint_distractor(canvas: Canvas, distractor: str) -> None:
    """Draw one distractor and mark it."""
    _PAINTERS[distractor](canvas)


def _shadow(canvas: Canvas) -> None:
    mask: NDArray[np.uint8] = np.zeros((canvas.height, canvas.width), np.uint8)
    size = np.array([canvas.width, canvas.height])
    kind = canvas.rng.choice(("region", "bars", "cable", "foliage"), p=(0.35, 0.25, 0.25, 0.15))
    if kind == "region":  # half the frame behind a straight or bent edge
        points = canvas.rng.uniform(-0.6, 1.6, (int(canvas.rng.integers(3, 6)), 2)) * size
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA)
    elif kind == "foliage":
        mask = (smoothstep(0.1, 0.3, canvas.noise(canvas.between(60, 200))) * 255).astype(np.uint8)
    else:  # parallel bars of a railing, or a few thin cables
        thin = kind == "cable"
        angle, count = canvas.between(0, np.pi), int(canvas.rng.integers(1, 3) if thin else canvas.rng.integers(3, 8))
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        thickness = max(round(canvas.px(canvas.between(2.5, 10) if thin else canvas.between(8, 30))), 1)
        pitch = canvas.px(canvas.between(60, 160))
        middle = canvas.rng.uniform(0.2, 0.8, 2) * size
        sag = canvas.between(-0.15, 0.15) if thin else 0.0
        t = np.linspace(-1, 1, 17)[:, None] * canvas.width
        for index in range(count):
            path = middle + (index - count / 2) * pitch * across + t * along + sag * t * t / canvas.width * across
            cv2.polylines(mask, [np.round(path * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
    alpha = np.asarray(mask / 255, np.float32)
    softness = canvas.px(canvas.between(0.8, 3) if kind == "cable" else canvas.between(0.5, 8))
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), max(softness, 0.4)), np.float32)
    depth = canvas.between(0.2, 0.55)
    canvas.shade(1 - alpha * np.float32(depth))
    canvas.color[..., 0] *= 1 + alpha * np.float32(canvas.between(0, 0.1))  # sky light is blue
    canvas.mark(alpha > 0.5, BITS["shadow"])


def _joint(canvas: Canvas) -> None:
    """Straight, even lines: formwork and expansion joints, with tie holes at times; scratches of a board edge."""
    mask = np.zeros((canvas.height, canvas.width), np.uint8)
    angle = canvas.rng.normal(0, 0.04) + (np.pi / 2 if canvas.chance(0.5) else 0)
    lines = int(canvas.rng.choice((1, 2, 3), p=(0.55, 0.3, 0.15)))
    width = canvas.px(float(np.exp(canvas.between(np.log(1.7), np.log(14)))))
    size = np.array([canvas.width, canvas.height])
    for index in range(lines):
        direction = angle + (np.pi / 2 if index == 2 else 0)
        along = np.array([np.cos(direction), np.sin(direction)])
        middle = canvas.rng.uniform(0.1, 0.9, 2) * size
        ends = np.round(np.stack([middle - 2 * canvas.width * along, middle + 2 * canvas.width * along]) * 16).astype(
            int
        )
        cv2.line(
            mask, ends[0].tolist(), ends[1].tolist(), int(255 * min(width, 1)), max(round(width), 1), cv2.LINE_AA, 4
        )
    alpha = mask.astype(np.float32) / 255
    if canvas.chance(0.3):  # worn in places, as cracks are
        alpha *= 1 - np.float32(canvas.between(0.2, 0.7)) * smoothstep(-0.1, 0.4, canvas.noise(200))
    strength = canvas.between(0.2, 0.75) * (1 if canvas.chance(0.8) else -0.5)  # a few are bright ridges
    canvas.shade(1 - alpha * np.float32(strength))
    canvas.mark(alpha > 0.3, BITS["joint"])
    if canvas.chance(0.35):
        holes = np.zeros_like(mask)
        pitch = canvas.px(canvas.between(180, 400))
        first = canvas.rng.uniform(0, 1, 2) * pitch
        for y in np.arange(first[1], canvas.height, pitch):
            for x in np.arange(first[0], canvas.width, pitch):
                cv2.circle(holes, (int(x), int(y)), max(int(canvas.px(canvas.between(5, 9))), 1), 255, -1, cv2.LINE_AA)
        canvas.shade(1 - holes.astype(np.float32) * np.float32(canvas.between(0.3, 0.6) / 255))


def _stain(canvas: Canvas) -> None:
    """Soot, oil and dirt: grey to brownish, smooth, darker than the surface."""
    spread = float(np.exp(canvas.between(np.log(40), np.log(320))))
    center = (canvas.between(0, 1), canvas.between(0, 1))
    field = blob(
        canvas, center, (spread, spread * canvas.between(0.3, 1)), canvas.between(0, np.pi), canvas.between(0.2, 0.7)
    )
    alpha = smoothstep(0.0, canvas.between(0.3, 0.9), field)
    if canvas.chance(0.4):
        alpha = np.maximum(alpha, streak(canvas, alpha, canvas.between(100, 500)))
    depth = np.float32(canvas.between(0.2, 0.6))
    brown = np.array([1.12, 1.0, 0.93], np.float32) if canvas.chance(0.4) else np.array([1, 1, 1], np.float32)
    canvas.color *= 1 - (alpha * depth)[..., None] * brown
    canvas.mark(alpha > 0.4, BITS["stain"])


def _water_mark(canvas: Canvas) -> None:
    """Damp runs from the top, or a dried tide line with a darker rim."""
    if canvas.chance(0.6):
        source = np.zeros((canvas.height, canvas.width), np.float32)
        row = int(canvas.between(0, 0.5) * canvas.height)
        left = canvas.between(-0.1, 0.8)
        right = left + canvas.between(0.1, 0.6)
        source[row : row + max(int(canvas.px(12)), 4), max(int(left * canvas.width), 0) : int(right * canvas.width)] = 1
        alpha = np.clip(streak(canvas, source, canvas.between(200, 800)) * 3, 0, 1)
    else:
        spread = canvas.between(80, 300)
        field = blob(canvas, (canvas.between(0, 1), canvas.between(0, 1)), (spread, spread * 0.6), 0.0, 0.3)
        rim = np.exp(-((field / np.float32(canvas.between(0.03, 0.1))) ** 2))
        alpha = np.maximum(smoothstep(0, 0.2, field) * np.float32(0.5), rim * np.float32(0.9))
    depth = canvas.between(0.12, 0.4) * (1 if canvas.chance(0.75) else -0.35)  # some dry pale
    canvas.shade(1 - alpha * np.float32(depth))
    canvas.mark(alpha > 0.2, BITS["water_mark"])


def _rust_paint(canvas: Canvas) -> None:
    """Red lead and orange paint: even colour, clean edges; no texture of its own."""
    mask = np.zeros((canvas.height, canvas.width), np.uint8)
    size = np.array([canvas.width, canvas.height])
    if canvas.chance(0.5):  # a stripe or a panel
        center, angle = (
            canvas.rng.uniform(0.1, 0.9, 2) * size,
            canvas.between(-15, 15) + (90 if canvas.chance(0.5) else 0),
        )
        extent = (canvas.px(canvas.between(200, 1400)), canvas.px(canvas.between(40, 320)))
        corners = cv2.boxPoints((center.tolist(), extent, angle))
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_AA)
    elif canvas.chance(0.5):  # inspectors' marks
        for _ in range(int(canvas.rng.integers(1, 4))):
            points = (canvas.rng.uniform(0.1, 0.9, 2) + np.cumsum(canvas.rng.normal(0, 0.1, (4, 2)), 0)) * size
            cv2.polylines(
                mask,
                [np.round(points).astype(np.int32)],
                False,
                255,
                max(int(canvas.px(canvas.between(6, 22))), 1),
                cv2.LINE_AA,
            )
    else:  # a dab
        axes = (int(canvas.px(canvas.between(25, 160))), int(canvas.px(canvas.between(20, 120))))
        cv2.ellipse(
            mask,
            _int2(canvas.rng.uniform(0.1, 0.9, 2) * size),
            axes,
            canvas.between(0, 180),
            0,
            360,
            255,
            -1,
            cv2.LINE_AA,
        )
    alpha = mask.astype(np.float32) / 255
    tone = np.array([canvas.between(25, 75), canvas.between(55, 120), canvas.between(145, 225)], np.float32)
    shine = (
        canvas.between(1, 7) * canvas.noise(canvas.between(200, 800)) + canvas.between(0.5, 4) * canvas.noise(8, 0.75)
    )[..., None]
    canvas.blend(alpha * np.float32(canvas.between(0.85, 1.0)), tone + shine)
    canvas.mark(alpha > 0.5, BITS["rust_paint"])


def _moss(canvas: Canvas) -> None:
    spread = float(np.exp(canvas.between(np.log(40), np.log(280))))
    center = (canvas.between(0, 1), canvas.between(0, 1))
    field = blob(
        canvas, center, (spread, spread * canvas.between(0.3, 1)), canvas.between(0, np.pi), canvas.between(0.5, 0.9)
    )
    tufts = canvas.noise(canvas.between(14, 40), 0.75)
    alpha = smoothstep(0.0, 0.3, field + np.float32(0.35) * tufts)
    green = np.array([canvas.between(25, 70), canvas.between(70, 130), canvas.between(50, 105)], np.float32)
    canvas.blend(alpha * np.float32(canvas.between(0.6, 0.95)), green * (1 + np.float32(0.35) * tufts[..., None]))
    canvas.mark(alpha > 0.5, BITS["moss"])


def _int2(point: NDArray[Any]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "shadow": _shadow,
    "joint": _joint,
    "stain": _stain,
    "water_mark": _water_mark,
    "rust_paint": _rust_paint,
    "moss": _moss,
}
