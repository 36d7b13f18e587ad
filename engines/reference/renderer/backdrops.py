"""What a camera sees when it looks past the structure: ground from above, streets, facades; nothing to report on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.reference.renderer.canvas import Canvas, Mask, blob, smoothstep
from engines.reference.renderer.surfaces import paint_surface

Color = NDArray[np.floating]  # BGR

_SOILS = ((60, 80, 100), (85, 105, 125), (120, 135, 145), (95, 95, 95), (60, 90, 70), (140, 165, 180))  # BGR
_WALLS = (
    (70, 85, 150), (90, 110, 165), (195, 205, 210), (150, 190, 215), (120, 150, 170), (170, 170, 165), (225, 228, 230),
    (150, 120, 100),
)  # fmt: skip


def paint_backdrop(canvas: Canvas) -> None:
    """Cover the whole canvas with a view that holds no structure to inspect."""
    kind = str(canvas.rng.choice(tuple(_PAINTERS), p=(0.35, 0.3, 0.2, 0.15)))
    _PAINTERS[kind](canvas)
    canvas.color += (canvas.between(1, 10) * canvas.noise(canvas.between(8, 40), 0.75))[..., None]
    canvas.color += (canvas.between(1, 12) * canvas.noise(500))[..., None]


def _ground(canvas: Canvas) -> None:
    """Straight down: soil or tarmac, wheel tracks, a road, growth, and what stands about."""
    soil = _tint(canvas, _SOILS) * canvas.between(0.5, 1.3)
    canvas.color[:] = soil
    canvas.color *= 1 + np.float32(canvas.between(0.08, 0.3)) * canvas.noise(canvas.between(150, 700), 0.75)[..., None]
    for _ in range(int(canvas.rng.integers(0, 4))):
        _growth(canvas, ragged=0.9)
    if canvas.chance(0.7):  # a road or a trodden way
        _way(canvas, canvas.between(40, 260), soil * canvas.between(0.7, 1.7), canvas.between(0.5, 1.0))
    for _ in range(int(canvas.rng.integers(0, 4))):  # wheel tracks run in pairs
        tone = canvas.between(0.6, 1.5)
        _way(canvas, canvas.between(5, 16), soil * tone, canvas.between(0.3, 0.9), pair_distance=canvas.between(20, 60))
    if canvas.chance(0.4):
        pale = smoothstep(canvas.between(0.2, 0.5), 0.8, canvas.noise(canvas.between(80, 300), 0.75))
        canvas.blend(pale * np.float32(0.7), soil * 1.7)
    for _ in range(int(canvas.rng.integers(0, 4))):
        _boxes(canvas)


def _street(canvas: Canvas) -> None:
    """Level: sky, a row of buildings, trees, and the ground before them."""
    horizon = canvas.between(0.45, 0.95)
    _sky(canvas)
    edge = -canvas.between(0.0, 0.2)
    while edge < 1:
        width = canvas.between(0.12, 0.6)
        if canvas.chance(0.8):
            top = horizon - canvas.between(0.15, 0.8)
            _building(canvas, edge, edge + width, top, horizon)
        edge += width * canvas.between(0.7, 1.3)
    for _ in range(int(canvas.rng.integers(0, 4))):
        _tree(canvas, canvas.between(0, 1), horizon)
    ground = _tint(canvas, _SOILS)
    below = _rows(canvas) > horizon
    texture = 1 + np.float32(canvas.between(0.05, 0.2)) * canvas.noise(canvas.between(30, 200), 0.75)[..., None]
    canvas.blend(np.broadcast_to(below, canvas.labels.shape).astype(np.float32), ground * texture)
    for _ in range(int(canvas.rng.integers(0, 3))):  # wires across the sky
        y = canvas.rng.uniform(0, horizon, 2) * canvas.height
        mask = np.zeros(canvas.labels.shape, np.uint8)
        left, right = (0, int(y[0])), (canvas.width, int(y[1]))
        cv2.line(mask, left, right, 255, max(round(canvas.px(canvas.between(1, 4))), 1), cv2.LINE_AA)
        canvas.blend(_alpha(mask), np.full(3, canvas.between(10, 60)))


def _facade(canvas: Canvas) -> None:
    """A sound wall that fills the frame, with windows, doors, pipes and signs."""
    paint_surface(canvas, "masonry" if canvas.chance(0.6) else "concrete")
    if canvas.chance(0.4):
        canvas.color *= _tint(canvas, _WALLS) / np.float32(160)
    _windows(canvas, canvas.between(-0.1, 0.1), canvas.between(0.9, 1.1), canvas.between(-0.1, 0.2), 1.1)
    for _ in range(int(canvas.rng.integers(0, 3))):  # pipes, cornices
        _bar(canvas, canvas.between(8, 40), canvas.rng.uniform(30, 210, 3))


def _plain(canvas: Canvas) -> None:
    """Too near, too far or out of focus: a few areas of colour."""
    canvas.color[:] = canvas.rng.uniform(60, 200, 3).astype(np.float32)
    for _ in range(int(canvas.rng.integers(1, 4))):
        color = canvas.rng.uniform(20, 230) + canvas.rng.normal(0, 18, 3)
        if canvas.chance(0.5):
            edge = canvas.between(0.2, 0.8) + np.float32(canvas.between(0, 0.15)) * canvas.noise(600)
            canvas.blend(smoothstep(0.0, canvas.between(0.01, 0.1), _rows(canvas) - edge), color)
        else:
            _growth(canvas, ragged=0.6)


def _sky(canvas: Canvas) -> None:
    high, low = (np.array([canvas.between(150, 245), canvas.between(130, 220), canvas.between(90, 215)]), 225.0)
    canvas.color[:] = high + (_rows(canvas) ** np.float32(1.5))[..., None] * (low - high)
    clouds = smoothstep(canvas.between(-0.4, 0.5), 0.9, canvas.noise(canvas.between(300, 1000)))
    canvas.blend(clouds * np.float32(canvas.between(0, 0.9)), np.full(3, canvas.between(150, 250)))


def _building(canvas: Canvas, left: float, right: float, top: float, bottom: float) -> None:
    wall = _tint(canvas, _WALLS) * canvas.between(0.5, 1.1)
    x0, x1 = int(left * canvas.width), int(right * canvas.width)
    y0, y1 = int(top * canvas.height), int(bottom * canvas.height)
    cv2.rectangle(canvas.color, (x0, y0), (x1, y1), tuple(map(float, wall)), -1)
    if canvas.chance(0.6):  # a roof, with a gable or spire at times
        rise = int(canvas.px(canvas.between(20, 200)))
        middle = x0 + int(canvas.between(0, 1) * (x1 - x0))
        roof = np.array([(x0, y0), (x1, y0), (middle, y0 - rise)], np.int32)
        dark = _tint(canvas, _WALLS) * canvas.between(0.25, 0.7)
        cv2.fillPoly(canvas.color, [roof], tuple(map(float, dark)), cv2.LINE_AA)
    _windows(canvas, left, right, top, bottom)


def _windows(canvas: Canvas, left: float, right: float, top: float, bottom: float) -> None:
    """A grid of panes, each with a frame, at times with a sill or an arch."""
    columns, rows = int(canvas.rng.integers(1, 8)), int(canvas.rng.integers(1, 7))
    pitch = np.array([(right - left) / columns, (bottom - top) / rows]) * (canvas.width, canvas.height)
    fill = canvas.rng.uniform((0.3, 0.4), (0.7, 0.85))
    glass = canvas.between(15, 110) + canvas.rng.normal(0, 12, 3)
    frame = canvas.rng.uniform(20, 240) + canvas.rng.normal(0, 8, 3)
    line = max(int(canvas.px(canvas.between(1, 6))), 1)
    cross = canvas.chance(0.5)
    for i in range(columns):
        for j in range(rows):
            corner = np.array([left * canvas.width, top * canvas.height]) + pitch * (i + 0.15, j + 0.1)
            end = corner + pitch * fill
            pane = tuple(map(float, glass * canvas.between(0.7, 1.3)))
            cv2.rectangle(canvas.color, _int2(corner), _int2(end), pane, -1)
            cv2.rectangle(canvas.color, _int2(corner), _int2(end), tuple(map(float, frame)), line, cv2.LINE_AA)
            if cross:
                middle = (corner + end) / 2
                for a, b in (
                    ((middle[0], corner[1]), (middle[0], end[1])),
                    ((corner[0], middle[1]), (end[0], middle[1])),
                ):
                    cv2.line(canvas.color, _int2(np.array(a)), _int2(np.array(b)), tuple(map(float, frame)), line)


def _tree(canvas: Canvas, at: float, foot: float) -> None:
    """Bare branches, which look like cracks against the sky, or a crown."""
    height = canvas.between(150, 600)
    mask = np.zeros(canvas.labels.shape, np.uint8)
    start = np.array([at * canvas.width, foot * canvas.height])
    twigs = [(start, -np.pi / 2 + canvas.rng.normal(0, 0.1), canvas.px(height) / 3, canvas.px(height) / 22)]
    for _ in range(60):
        if not twigs:
            break
        point, angle, length, thickness = twigs.pop(0)
        end = point + length * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(mask, _int2(point), _int2(end), 255, max(int(thickness), 1), cv2.LINE_AA)
        if length > canvas.px(12):
            forks = canvas.rng.normal((-0.45, 0.45), 0.2)
            twigs += [(end, angle + fork, length * canvas.between(0.6, 0.85), thickness * 0.6) for fork in forks]
    bark = canvas.between(15, 80) + np.array([-5.0, 0.0, 6.0])
    canvas.blend(_alpha(mask), bark)
    if canvas.chance(0.6):
        _growth(canvas, 0.8, (at, foot - height / 1000 * canvas.width / canvas.height), height / 3)


def _growth(canvas: Canvas, ragged: float, center: tuple[float, float] | None = None, radius: float = 0) -> None:
    """Leaves or grass."""
    center = center or (canvas.between(0, 1), canvas.between(0, 1))
    radius = radius or canvas.between(80, 500)
    field = blob(canvas, center, (radius, radius * canvas.between(0.5, 1)), canvas.between(0, np.pi), ragged)
    tufts = canvas.noise(canvas.between(15, 90), 0.75)
    green = np.array([canvas.between(15, 60), canvas.between(40, 120), canvas.between(30, 110)], np.float32)
    canvas.blend(
        smoothstep(0.0, 0.3, field + np.float32(0.4) * tufts), green * (1 + np.float32(0.5) * tufts[..., None])
    )


def _way(canvas: Canvas, width: float, color: Color, opacity: float, pair_distance: float = 0) -> None:
    """A bent band across the frame, worn at its edges; two of them side by side where ``pair_distance`` says so."""
    size = np.array([canvas.width, canvas.height])
    angle = canvas.between(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    t = np.linspace(-1.2, 1.2, 25)[:, None]
    bend = canvas.between(-0.5, 0.5) * t * t + canvas.between(-0.2, 0.2) * t**3
    path = canvas.rng.uniform(0.1, 0.9, 2) * size + canvas.width * (t * along + bend * across)
    mask = np.zeros(canvas.labels.shape, np.uint8)
    for side in (-0.5, 0.5) if pair_distance else (0.0,):
        shifted = path + side * canvas.px(pair_distance) * across
        cv2.polylines(
            mask, [np.round(shifted * 16).astype(np.int32)], False, 255, max(round(canvas.px(width)), 1), cv2.LINE_AA, 4
        )
    alpha = cv2.GaussianBlur(_alpha(mask), (0, 0), max(canvas.px(width) / 8, 0.5))
    worn = np.clip(1 + canvas.between(0.2, 0.8) * canvas.noise(canvas.between(30, 200), 0.75), 0, 1)
    canvas.blend(np.asarray(alpha * worn * opacity, np.float32), color)


def _boxes(canvas: Canvas) -> None:
    """Cars, crates, sheds or stacked material: rectangles in a row, each with its shadow."""
    color = tuple(map(float, canvas.rng.uniform(20, 240) + canvas.rng.normal(0, 20, 3)))
    extent = np.array([canvas.between(15, 120), canvas.between(10, 60)]) * canvas.width / 1000
    angle = canvas.between(0, 180)
    step = np.array([np.cos(np.radians(angle + 90)), np.sin(np.radians(angle + 90))]) * extent[1] * 1.15
    first = canvas.rng.uniform(0, 1, 2) * (canvas.width, canvas.height)
    light = np.array([np.cos(canvas.light_rad), np.sin(canvas.light_rad)]) * extent[1] * 0.25
    for index in range(int(canvas.rng.choice((1, 1, 2, 6)))):
        for shift, tone in ((-light, (25.0, 25.0, 25.0)), (0 * light, color)):
            center = first + index * step + shift
            corners = cv2.boxPoints((center.tolist(), extent.tolist(), angle))
            cv2.fillPoly(canvas.color, [np.round(corners).astype(np.int32)], tone, cv2.LINE_AA)


def _bar(canvas: Canvas, width: float, color: Color) -> None:
    at, upright = canvas.between(0, 1), canvas.chance(0.5)
    start = (at * canvas.width, 0.0) if upright else (0.0, at * canvas.height)
    end = (at * canvas.width, canvas.height) if upright else (canvas.width, at * canvas.height)
    thickness = max(int(canvas.px(width)), 1)
    cv2.line(canvas.color, _int2(np.array(start)), _int2(np.array(end)), tuple(map(float, color)), thickness)


def _tint(canvas: Canvas, colors: tuple[tuple[int, int, int], ...]) -> Color:
    color = colors[int(canvas.rng.integers(len(colors)))]
    return (np.asarray(color) * canvas.between(0.8, 1.15) + canvas.rng.normal(0, 8, 3)).astype(np.float32)


def _alpha(mask: NDArray[np.uint8]) -> Mask:
    return np.asarray(mask / 255, np.float32)


def _rows(canvas: Canvas) -> Mask:
    return np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None]


def _int2(point: NDArray[Any]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "ground": _ground,
    "street": _street,
    "facade": _facade,
    "plain": _plain,
}
