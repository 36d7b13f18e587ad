"""What sound concrete shows from a hand's breadth, and is no defect: holes, covers, worn joints, planks, aggregate."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas, blob, smoothstep
from engines.reference.renderer.distractors import BITS


def paint_close_range(canvas: Canvas) -> None:
    """Draw one to three kinds of what a close look at a sound surface shows; joints and stains are marked as such."""
    count = int(canvas.rng.integers(1, 4))
    for index in canvas.rng.choice(len(_PAINTERS), size=count, replace=False):
        _PAINTERS[int(index)](canvas)


def _bugholes(canvas: Canvas) -> None:
    """Round voids with a dark upper and a lit lower rim, few large ones or many small ones."""
    dark, lit = (np.zeros((canvas.height, canvas.width), np.uint8) for _ in range(2))
    shift = np.array([np.cos(canvas.light_rad), np.sin(canvas.light_rad)])
    largest = canvas.between(5, 26)
    for _ in range(int(canvas.rng.integers(4, 80))):
        radius = canvas.px(largest * float(canvas.rng.beta(1, 3)) + 1.5)
        center = canvas.rng.uniform(0, 1, 2) * (canvas.width, canvas.height)
        axes = (max(int(radius), 1), max(int(radius * canvas.between(0.5, 1)), 1))
        turn = canvas.between(0, 180)
        for picture, place in ((dark, center), (lit, center + 0.7 * radius * shift)):
            point = (int(place[0]), int(place[1]))
            cv2.ellipse(picture, point, axes, turn, 0, 360, 255, -1, cv2.LINE_AA)
    hole, rim = _soft(canvas, dark, 1.0), _soft(canvas, lit, 1.5)
    canvas.shade(1 + rim * (1 - hole) * np.float32(canvas.between(0, 0.2)))
    canvas.shade(1 - hole * np.float32(canvas.between(0.1, 0.6)))


def _tie_holes(canvas: Canvas) -> None:
    """Plugged tie holes: a disc of another grey with a thin dark ring."""
    radius = max(canvas.px(canvas.between(15, 70)), 2.0)
    disc, ring = (np.zeros((canvas.height, canvas.width), np.uint8) for _ in range(2))
    for _ in range(int(canvas.rng.integers(1, 4))):
        center = (int(canvas.between(0, canvas.width)), int(canvas.between(0, canvas.height)))
        cv2.circle(disc, center, int(radius), 255, -1, cv2.LINE_AA)
        cv2.circle(ring, center, int(radius), 255, max(int(canvas.px(canvas.between(2, 6))), 1), cv2.LINE_AA)
    canvas.shade(1 + _soft(canvas, disc, 1.5) * np.float32(canvas.between(-0.35, 0.25)))
    canvas.shade(1 - _soft(canvas, ring, 1.0) * np.float32(canvas.between(0.1, 0.5)))


def _worn_joints(canvas: Canvas) -> None:
    """Straight lines between formwork panels, chipped and uneven, dark on one side and lit on the other."""
    line = np.zeros((canvas.height, canvas.width), np.uint8)
    angle = canvas.rng.normal(0, 0.08) + (np.pi / 2 if canvas.chance(0.5) else 0)
    width = max(canvas.px(float(np.exp(canvas.between(np.log(2.5), np.log(18))))), 1.0)
    for index in range(int(canvas.rng.integers(1, 3))):
        heading = angle + index * np.pi / 2
        along = np.array([np.cos(heading), np.sin(heading)])
        middle = canvas.rng.uniform(0.1, 0.9, 2) * (canvas.width, canvas.height)
        ends = np.round(np.stack([middle - 2 * canvas.width * along, middle + 2 * canvas.width * along]) * 16)
        first, last = ends.astype(int).tolist()
        cv2.line(line, first, last, 255, max(round(width), 1), cv2.LINE_AA, 4)
    alpha = np.asarray(line, np.float32) / 255
    alpha *= 1 - np.float32(canvas.between(0, 0.9)) * smoothstep(-0.2, 0.5, canvas.noise(canvas.between(60, 250)))
    move = np.array([[1, 0, width * np.cos(canvas.light_rad)], [0, 1, width * np.sin(canvas.light_rad)]], np.float32)
    lit = cv2.warpAffine(alpha, move, (canvas.width, canvas.height))
    canvas.shade(1 + lit * (1 - alpha) * np.float32(canvas.between(0, 0.25)))
    canvas.shade(1 - alpha * np.float32(canvas.between(0.08, 0.7)))
    canvas.mark(alpha > 0.3, BITS["joint"])


def _flat_stains(canvas: Canvas) -> None:
    """Damp or dirty areas with a clear outline, as flat as the concrete around them."""
    for _ in range(int(canvas.rng.integers(1, 5))):
        spread = float(np.exp(canvas.between(np.log(30), np.log(350))))
        center, turn = (canvas.between(0, 1), canvas.between(0, 1)), canvas.between(0, np.pi)
        field = blob(canvas, center, (spread, spread * canvas.between(0.2, 1)), turn, canvas.between(0.3, 0.9))
        alpha = smoothstep(0.0, canvas.between(0.02, 0.5), field)
        tone = np.float32(canvas.between(-0.3, 0.2)) * canvas.rng.normal(1, 0.12, 3).astype(np.float32)
        canvas.color *= 1 + alpha[..., None] * tone
        canvas.mark(alpha > 0.4, BITS["stain"])


def _planking(canvas: Canvas) -> None:
    """The print of boards: bands of another tone, wood grain along them, a fin or a shadow between."""
    upright = canvas.chance(0.5)
    period = max(canvas.px(canvas.between(70, 350)), 4.0)
    bend = canvas.px(canvas.between(0, 6)) * canvas.noise(400)
    rows = np.arange(canvas.height, dtype=np.float32)[:, None] + np.zeros((1, canvas.width), np.float32)
    columns = np.arange(canvas.width, dtype=np.float32)[None, :] + np.zeros((canvas.height, 1), np.float32)
    across = (columns if upright else rows) + bend + np.float32(canvas.between(0, period))
    tones = canvas.rng.normal(0, canvas.between(0.01, 0.07), 64).astype(np.float32)
    canvas.shade(1 + tones[(across / period).astype(int) % 64])
    stretched = (1, int(canvas.px(120)) | 1) if upright else (int(canvas.px(120)) | 1, 1)
    threads = canvas.rng.standard_normal((canvas.height, canvas.width), np.float32)
    fibres = np.asarray(cv2.blur(threads, stretched), np.float32)
    fibres = fibres / np.float32(max(float(fibres.std()), 1e-6))
    canvas.shade(1 + np.float32(canvas.between(0.005, 0.06)) * fibres)
    edge = np.minimum(across % period, period - across % period)
    seam = 1 - smoothstep(0.0, max(canvas.px(canvas.between(2, 8)), 0.8), edge)
    seam *= 1 - np.float32(canvas.between(0, 0.8)) * smoothstep(-0.2, 0.4, canvas.noise(200))
    canvas.shade(1 + seam * np.float32(canvas.between(-0.4, 0.15)))
    canvas.mark(seam > 0.5, BITS["joint"])


def _aggregate(canvas: Canvas) -> None:
    """Washed concrete and asphalt: stones of every grey, with shade between them, flat as a whole."""
    cell = max(canvas.px(canvas.between(8, 30)), 2.0)
    shape = int(canvas.height / cell) + 2, int(canvas.width / cell) + 2
    lattice = canvas.rng.normal(0, 1, shape).astype(np.float32)
    whole = (canvas.width, canvas.height)
    stones = cv2.resize(lattice, whole, interpolation=cv2.INTER_NEAREST)
    wobble = canvas.noise(2.5 * cell / canvas.width * 1000, 0.75)
    y, x = np.indices((canvas.height, canvas.width), np.float32)
    reach = np.float32(0.6 * cell)
    stones = cv2.remap(
        stones, x + reach * wobble, y + reach * wobble[::-1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    )
    soft = np.asarray(cv2.GaussianBlur(stones, (0, 0), max(0.12 * cell, 0.4)), np.float32)
    gaps = np.abs(stones - soft)
    canvas.shade(1 + np.float32(canvas.between(0.03, 0.16)) * soft - np.float32(canvas.between(0, 0.2)) * gaps)


def _soft(canvas: Canvas, mask: NDArray[np.uint8], spread: float) -> NDArray[np.float32]:
    """(H, W), 0 to 1, with a rim ``spread`` per-mille of the width wide."""
    return np.asarray(cv2.GaussianBlur(np.asarray(mask, np.float32) / 255, (0, 0), max(canvas.px(spread), 0.4)))


_PAINTERS: tuple[Callable[[Canvas], None], ...] = (
    _bugholes,
    _tie_holes,
    _worn_joints,
    _flat_stains,
    _planking,
    _aggregate,
)
