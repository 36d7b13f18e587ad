"""How each defect looks when it is painted on a surface, and the facts that its description may use.

Each painter draws one defect, marks the pixels it covers, and returns the words a report has for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES
from engines.reference.renderer.canvas import Canvas, Mask, blob, smoothstep, streak

BITS = {name: bit for bit, name in enumerate(DEFECT_CLASSES)}
# Crack widths in per-mille of the frame's width: hairline, fine, wide.
CRACK_WIDTHS = {"hairline": (1.7, 3.4), "fine": (3.4, 8.0), "wide": (8.0, 22.0)}


def paint_defect(canvas: Canvas, defect_class: str, surface: str) -> dict[str, str]:
    """Draw one defect of ``defect_class`` and mark it; returns its facts (``width``, ``direction``, ...)."""
    return _PAINTERS[defect_class](canvas, surface)


def crack_path(canvas: Canvas, start: NDArray[Any], heading_rad: float, length: float, wander: float) -> NDArray[Any]:
    """A jagged line as (N, 2) pixels: a wandering walk, then midpoints displaced three times."""
    steps = max(int(length / 60), 2)
    turns = np.cumsum(canvas.rng.normal(0, wander, steps))
    headings = heading_rad + turns - turns.mean()
    moves = np.stack([np.cos(headings), np.sin(headings)], 1) * canvas.px(length) / steps
    points = np.vstack([start, start + np.cumsum(moves, 0)])
    for _ in range(3):
        ahead = points[1:] - points[:-1]
        normal = ahead[:, ::-1] * (1, -1)
        middle = (points[1:] + points[:-1]) / 2 + normal * canvas.rng.normal(0, 0.13, (len(ahead), 1))
        merged = np.empty((len(points) + len(middle), 2))
        merged[0::2], merged[1::2] = points, middle
        points = merged
    return points


def draw_path(mask: NDArray[Any], points: NDArray[Any], widths: NDArray[Any]) -> None:
    """Draw a line of changing width (pixels) on a uint8 mask; below one pixel, width becomes opacity."""
    fixed = np.round(points * 16).astype(int)
    for begin, end, width in zip(fixed[:-1].tolist(), fixed[1:].tolist(), widths.tolist(), strict=True):
        opacity = int(255 * min(width, 1.0))
        cv2.line(mask, begin, end, opacity, max(round(width), 1), cv2.LINE_AA, 4)


def _crack(canvas: Canvas, surface: str) -> dict[str, str]:
    kind = ("hairline", "fine", "wide")[int(canvas.rng.choice(3, p=canvas.conditions.crack_kinds))]
    width_px = canvas.px(canvas.between(*CRACK_WIDTHS[kind]))
    length = canvas.between(260, 1100)
    direction = canvas.between(0, np.pi)
    wander = canvas.between(0.1, 0.5)
    size = np.array([canvas.width, canvas.height])
    middle = canvas.rng.uniform(0.25, 0.75, 2) * size
    start = middle - 0.5 * canvas.px(length) * np.array([np.cos(direction), np.sin(direction)])
    mask = np.zeros((canvas.height, canvas.width), np.uint8)
    main = crack_path(canvas, start, direction, length, wander)
    draw_path(mask, main, _taper(canvas, len(main) - 1, width_px))
    for _ in range(int(canvas.rng.choice(4, p=(0.5, 0.25, 0.15, 0.1)))):
        at = main[int(canvas.rng.integers(len(main) // 5, len(main)))]
        side = direction + canvas.between(0.3, 1.2) * (1 if canvas.chance(0.5) else -1)
        branch = crack_path(canvas, at, side, canvas.between(80, 0.6 * length), wander)
        draw_path(mask, branch, _taper(canvas, len(branch) - 1, 0.8 * width_px))
    alpha = mask.astype(np.float32) / 255
    if width_px > 2:  # a rim that is lit, or broken away
        offset = np.array([[1, 0, 1.2 * np.cos(canvas.light_rad)], [0, 1, 1.2 * np.sin(canvas.light_rad)]], np.float32)
        rim = cv2.warpAffine(alpha, offset, (canvas.width, canvas.height)) * (1 - alpha)
        canvas.shade(1 + rim * np.float32(canvas.between(0, 0.2)))
    darkness = canvas.between(0.45, 0.8) if kind == "hairline" else canvas.between(0.4, 0.85)
    patchy = 1 - np.float32(canvas.between(0, 0.3)) * smoothstep(0.0, 0.6, canvas.noise(70))
    canvas.shade(1 - np.minimum(alpha, 1) * np.float32(darkness) * patchy)
    canvas.mark(alpha > 0.3, BITS["crack"])
    return {"width": kind, "direction": _direction_word(main[-1] - main[0])}


def _taper(canvas: Canvas, segments: int, width_px: float) -> NDArray[Any]:
    along = np.linspace(0, 1, segments)
    ends = np.minimum(1, 0.65 + 6 * np.minimum(along, 1 - along))
    return np.asarray(width_px * ends * np.exp(canvas.rng.normal(0, 0.18, segments)))


def _direction_word(span: NDArray[Any]) -> str:
    slope = np.degrees(np.arctan2(abs(span[1]), abs(span[0])))
    return "horizontal" if slope < 25 else "vertical" if slope > 65 else "diagonal"


def _corrosion(canvas: Canvas, surface: str) -> dict[str, str]:
    kind = canvas.rng.choice(("patch", "specks", "sheet"), p=(0.7, 0.2, 0.1))
    spread = float(np.exp(canvas.between(np.log(22), np.log(330)))) if kind == "patch" else canvas.between(150, 700)
    spread *= canvas.conditions.size
    center = (canvas.between(0.1, 0.9), canvas.between(0.1, 0.9))
    field = blob(
        canvas, center, (spread, spread * canvas.between(0.4, 1.0)), canvas.between(0, np.pi), canvas.between(0.3, 0.7)
    )
    if kind == "specks":  # paint broken through in many small places
        field = np.minimum(field, canvas.noise(canvas.between(35, 90), 0.5) - np.float32(canvas.between(0.2, 0.45)))
    elif kind == "sheet":
        field = np.maximum(field, canvas.noise(canvas.between(150, 500), 0.75) + np.float32(canvas.between(0.0, 0.6)))
    elif spread > 60 and canvas.chance(0.6):  # eaten through by a finer texture
        field = field + np.float32(0.3) * canvas.noise(60, 0.75)
    alpha = smoothstep(0.0, canvas.between(0.08, 0.35), field)
    deep = smoothstep(0.15, 0.7, field + np.float32(0.35) * canvas.noise(45, 0.75))
    light = np.array([canvas.between(25, 70), canvas.between(75, 125), canvas.between(140, 215)], np.float32)
    dark = np.array([canvas.between(15, 40), canvas.between(25, 55), canvas.between(55, 110)], np.float32)
    texture = (canvas.noise(22, 0.75) * canvas.between(10, 34))[..., None] * np.array([0.4, 0.8, 1.0], np.float32)
    rust = light + deep[..., None] * (dark - light) + texture
    if canvas.chance(0.4):
        run = streak(canvas, alpha, canvas.between(60, 300)) * (1 - alpha)
        canvas.blend(run * np.float32(canvas.between(0.2, 0.6)), light * np.float32(0.85))
    if surface == "painted steel" and canvas.chance(0.5):  # a flaked, pale rim of paint
        rim = smoothstep(-0.12, -0.02, field) * (1 - alpha)
        canvas.shade(1 + rim * np.float32(canvas.between(-0.25, 0.2)))
    canvas.blend(alpha * np.float32(canvas.between(0.78, 1.0)), rust)
    canvas.mark(alpha > 0.5, BITS["corrosion"])
    return {}


def _cavity(canvas: Canvas, spread: tuple[float, float], bit: int) -> tuple[Mask, Mask]:
    """Break a piece out of the surface; returns (field, alpha)."""
    radius = float(np.exp(canvas.between(np.log(spread[0]), np.log(spread[1])))) * canvas.conditions.size
    center = (canvas.between(0.15, 0.85), canvas.between(0.15, 0.85))
    field = blob(
        canvas,
        center,
        (radius, radius * canvas.between(0.45, 1.0)),
        canvas.between(0, np.pi),
        canvas.between(0.15, 0.4),
    )
    field = field + np.float32(0.06) * canvas.noise(40, 0.75)
    alpha = smoothstep(0.0, 0.05, field)
    inside = canvas.color.mean() * np.float32(canvas.between(0.6, 1.05))
    rough = canvas.noise(canvas.between(16, 40), 0.75)
    shift = max(canvas.px(2.5), 1.0)
    move = np.array([[1, 0, shift * np.cos(canvas.light_rad)], [0, 1, shift * np.sin(canvas.light_rad)]], np.float32)
    size = (canvas.width, canvas.height)
    relief = rough - cv2.warpAffine(rough, move, size, borderMode=cv2.BORDER_REFLECT)
    tone = np.array([canvas.between(-12, 2), 0, canvas.between(-2, 10)], np.float32)
    aggregate = inside + tone + (canvas.between(10, 26) * rough + canvas.between(20, 60) * relief)[..., None]
    canvas.blend(alpha, np.asarray(aggregate, np.float32))
    depth = canvas.px(canvas.between(4, 14))
    cast = np.array([[1, 0, depth * np.cos(canvas.light_rad)], [0, 1, depth * np.sin(canvas.light_rad)]], np.float32)
    lit_floor = cv2.warpAffine(alpha, cast, size, borderMode=cv2.BORDER_REFLECT)
    back_wall = cv2.warpAffine(
        alpha, cast * np.array([[1, 1, -0.6], [1, 1, -0.6]], np.float32), size, borderMode=cv2.BORDER_REFLECT
    )
    canvas.shade(1 - alpha * (1 - lit_floor) * np.float32(canvas.between(0.4, 0.75)))
    canvas.shade(1 + alpha * (1 - back_wall) * np.float32(canvas.between(0.05, 0.35)))
    canvas.labels[alpha > 0.5] = np.uint16(1 << bit)  # what was on the surface fell off with it
    return field, alpha


def _spalling(canvas: Canvas, surface: str) -> dict[str, str]:
    _cavity(canvas, (35, 240), BITS["spalling"])
    return {}


def _exposed_rebar(canvas: Canvas, surface: str) -> dict[str, str]:
    field, alpha = _cavity(canvas, (80, 260), BITS["exposed_rebar"])
    y, x = np.nonzero(alpha > 0.5)
    if len(x) == 0:
        return {"bars": "one bar"}
    center = np.array([np.median(x), np.median(y)])
    angle = canvas.between(-0.25, 0.25) + (np.pi / 2 if canvas.chance(0.5) else 0.0)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    width = max(canvas.px(canvas.between(9, 22)), 2.0)
    bars = int(canvas.rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2)))
    gx = np.arange(canvas.width, dtype=np.float32)[None, :] - np.float32(center[0])
    gy = np.arange(canvas.height, dtype=np.float32)[:, None] - np.float32(center[1])
    s = gx * np.float32(along[0]) + gy * np.float32(along[1])
    t = gx * np.float32(across[0]) + gy * np.float32(across[1])
    pitch = max(width * canvas.between(2.2, 4.5), 4.0)
    nearest = np.clip(np.round(t / pitch + (bars - 1) / 2), 0, bars - 1) - (bars - 1) / 2
    off = (t - nearest * pitch) / np.float32(width / 2)
    bar = smoothstep(0.0, 0.25, 1 - np.abs(off)) * smoothstep(-0.03, 0.03, field)
    shadow = smoothstep(0.0, 0.5, 1 - np.abs(off + np.float32(0.8))) * alpha * (1 - bar)
    canvas.shade(1 - shadow * np.float32(canvas.between(0.3, 0.6)))
    round_light = np.sqrt(np.clip(1 - np.minimum(off * off, 1), 0, 1)) * np.float32(0.8) + np.float32(0.3)
    ribs = 1 + np.float32(0.15) * np.sin(s * np.float32(2 * np.pi / max(width * 0.6, 2.5)))
    rusty = canvas.chance(0.7)
    base = (35, 65, 120) if rusty else (95, 95, 100)
    steel = np.asarray(base, np.float32) * np.float32(canvas.between(0.7, 1.3))
    metal = steel * (round_light * ribs)[..., None] + (14 * canvas.noise(15, 0.75))[..., None]
    canvas.blend(bar, np.asarray(metal, np.float32))
    return {"bars": "one bar" if bars == 1 else "several bars"}


def _efflorescence(canvas: Canvas, surface: str) -> dict[str, str]:
    spread = float(np.exp(canvas.between(np.log(40), np.log(260)))) * canvas.conditions.size
    center = (canvas.between(0.1, 0.9), canvas.between(0.05, 0.75))
    field = blob(
        canvas,
        center,
        (spread, spread * canvas.between(0.25, 0.8)),
        canvas.between(-0.3, 0.3),
        canvas.between(0.4, 0.8),
    )
    crust = smoothstep(0.0, canvas.between(0.25, 0.6), field) * smoothstep(-0.9, 0.3, canvas.noise(30, 0.75))
    run = streak(canvas, crust, canvas.between(100, 420))
    alpha = np.clip(np.maximum(crust, canvas.between(0.5, 1.0) * run), 0, 1)
    white = np.array([canvas.between(215, 245), canvas.between(220, 248), canvas.between(222, 250)], np.float32)
    canvas.blend(alpha * np.float32(canvas.between(0.6, 0.95)), white + (8 * canvas.noise(20, 0.75))[..., None])
    canvas.mark(alpha > 0.3, BITS["efflorescence"])
    return {}


_PAINTERS: dict[str, Callable[[Canvas, str], dict[str, str]]] = {
    "crack": _crack,
    "corrosion": _corrosion,
    "spalling": _spalling,
    "exposed_rebar": _exposed_rebar,
    "efflorescence": _efflorescence,
}
