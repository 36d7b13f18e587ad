"""Render scenes that measure like photographs: faint cracks, rough texture, sharpening halos, real backgrounds.

``scenes.py`` draws what the shipped checkpoint, its samples and its figures were made of, and stays as it is for every
seed. This is another distribution beside it, with the same labels and the same rules for findings, from which a next
checkpoint learns. ``picture_statistics`` prints how near to photographs each of the two comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES
from engines.reference.renderer.backdrops import paint_backdrop
from engines.reference.renderer.canvas import Canvas, Conditions
from engines.reference.renderer.close_range import paint_close_range
from engines.reference.renderer.darkroom import develop
from engines.reference.renderer.defects import BITS, paint_defect
from engines.reference.renderer.distractors import BITS as DISTRACTOR_BITS
from engines.reference.renderer.distractors import DISTRACTORS, paint_distractor
from engines.reference.renderer.lifelike_defects import paint_cracks, paint_rust
from engines.reference.renderer.scenes import BACKDROP, PAINT_ORDER, SIZE, Scene
from engines.reference.renderer.surfaces import SURFACES, paint_surface
from engines.reference.renderer.truth import finding_from_mask

_STREAM = 23  # beside the seed: no scene repeats the draws of scenes.py
_REAL_SHARE = 0.4  # of scenes on a structure, where there are backgrounds
_BACKDROP_SHARE = 0.08
_CLOSE_RANGE_SHARE = 0.25
_SURFACE_SHARE = (0.55, 0.15, 0.1, 0.2)
_DEFECTS_SHARE = (0.34, 0.42, 0.18, 0.06)  # of scenes with 0, 1, 2 and 3
_DEFECT_WEIGHTS = {  # crack, corrosion, spalling, exposed_rebar, efflorescence
    "concrete": (0.5, 0.08, 0.15, 0.13, 0.14),
    "masonry": (0.55, 0.0, 0.22, 0.0, 0.23),
    "painted steel": (0.12, 0.88, 0.0, 0.0, 0.0),
    "bare steel": (0.12, 0.88, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Background:
    """A photograph of something undamaged to paint defects on."""

    path: Path
    surface: str  # one of SURFACES; or "backdrop", which gets no defect


def render_lifelike_scene(seed: int, size: tuple[int, int] = SIZE, backgrounds: Sequence[Background] = ()) -> Scene:
    """Render the scene of ``seed`` at ``size`` (height, width); the same arguments give the same scene.

    With ``backgrounds``, two scenes in five are painted on one of them.
    """
    rng = np.random.default_rng((seed, _STREAM))
    canvas = Canvas(
        color=np.empty((*size, 3), np.float32),
        labels=np.zeros(size, np.uint16),
        rng=rng,
        light_rad=float(rng.uniform(0, 2 * np.pi)),
        conditions=Conditions(crack_kinds=(0.5, 0.3, 0.2)),
    )
    is_real = bool(backgrounds) and canvas.chance(_REAL_SHARE)
    if is_real:
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        surface = background.surface
        canvas.color[:] = _cut_out(canvas, background)
    else:
        surface = _paint_ground(canvas)
    is_close = surface in ("concrete", "masonry") and canvas.chance(_CLOSE_RANGE_SHARE / (1 - _BACKDROP_SHARE))
    distractors: tuple[str, ...] = ()
    if is_close and not is_real:
        paint_close_range(canvas)
    elif surface != BACKDROP and not is_real:
        count = int(rng.choice(3, p=(0.5, 0.35, 0.15)))
        distractors = tuple(str(name) for name in rng.choice(DISTRACTORS, size=count, replace=False))
        for name in distractors:
            paint_distractor(canvas, name)
    facts = {} if surface == BACKDROP else _paint_defects(canvas, surface, fewer=is_close)
    image, labels = develop(canvas, is_photograph=is_real)
    return _as_scene(image, labels, facts, surface, distractors)


def _paint_ground(canvas: Canvas) -> str:
    """Cover the canvas, roughen it, and return the surface's word."""
    if canvas.chance(_BACKDROP_SHARE):
        paint_backdrop(canvas)
        return BACKDROP
    surface = str(canvas.rng.choice(SURFACES, p=_SURFACE_SHARE))
    paint_surface(canvas, surface)
    mean = canvas.color.mean((0, 1))
    canvas.color[:] = mean + (canvas.color - mean) * np.float32(_log_uniform(canvas, 0.3, 2.0))
    roughness = _log_uniform(canvas, 0.004, 0.2) * (1.0 if surface in ("concrete", "masonry") else 0.4)
    canvas.shade(1 + np.float32(roughness) * grain(canvas))
    return surface


def grain(canvas: Canvas) -> NDArray[np.float32]:
    """Four octaves of noise from one pixel of a 256-pixel view up, each as strong as its draw: (H, W), deviation 1."""
    total = np.zeros((canvas.height, canvas.width), np.float32)
    for octave in range(4):
        cell = max(canvas.px(4.0) * 2**octave, 1.0)
        shape = int(canvas.height / cell) + 2, int(canvas.width / cell) + 2
        lattice = canvas.rng.standard_normal(shape, np.float32)
        layer = cv2.resize(lattice, (canvas.width, canvas.height), interpolation=cv2.INTER_CUBIC)
        total += np.float32(canvas.between(0.2, 1.0)) * layer
    return np.asarray(total / max(float(total.std()), 1e-6), np.float32)


def _paint_defects(canvas: Canvas, surface: str, fewer: bool) -> dict[str, dict[str, str]]:
    weights = np.array(_DEFECT_WEIGHTS[surface])
    wanted = int(canvas.rng.choice(4, p=_DEFECTS_SHARE))
    if fewer:
        wanted = min(wanted, int(canvas.chance(0.35)))
    count = min(wanted, int((weights > 0).sum()))
    chosen = {DEFECT_CLASSES[i] for i in canvas.rng.choice(len(weights), size=count, replace=False, p=weights)}
    facts = {}
    for name in PAINT_ORDER:
        if name not in chosen:
            continue
        if name == "crack":
            facts[name] = paint_cracks(canvas)
        elif name == "corrosion" and canvas.chance(0.7):
            facts[name] = paint_rust(canvas, grain)
        else:
            with canvas.faded(canvas.between(0.5, 1.0)):
                facts[name] = paint_defect(canvas, name, surface)
    return facts


def _as_scene(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    facts: dict[str, dict[str, str]],
    surface: str,
    distractors: tuple[str, ...],
) -> Scene:
    findings = []
    for name in DEFECT_CLASSES:
        if name not in facts:
            continue
        bit = np.uint16(1 << BITS[name])
        finding = finding_from_mask(name, np.asarray(labels & bit, bool), facts[name], surface)
        if finding is None:  # hidden by another, or out of view
            labels &= np.uint16(~bit)
        else:
            findings.append(finding)
    shown = tuple(name for name in distractors if (labels & np.uint16(1 << DISTRACTOR_BITS[name])).any())
    return Scene(image, labels, tuple(findings), facts, surface, shown)


def _cut_out(canvas: Canvas, background: Background) -> NDArray[np.float32]:
    """A part of the photograph, at most as much enlarged as it must be, turned and mirrored: (H, W, 3)."""
    photo = _photo(background.path)
    height, width = photo.shape[:2]
    most = min(height / canvas.height, width / canvas.width)
    scale = most * canvas.between(0.55, 1.0)
    rows, columns = int(canvas.height * scale), int(canvas.width * scale)
    top, left = (int(canvas.rng.integers(0, room + 1)) for room in (height - rows, width - columns))
    part = photo[top : top + rows, left : left + columns]
    for axis in (0, 1):
        if canvas.chance(0.5):
            part = np.flip(part, axis)
    whole = (canvas.width, canvas.height)
    shrunk = cv2.resize(
        np.ascontiguousarray(part), whole, interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    )
    return np.asarray(shrunk, np.float32)


@lru_cache(maxsize=64)
def _photo(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} cannot be read as a picture; leave it out of the backgrounds")
    return np.asarray(image, np.uint8)


def _log_uniform(canvas: Canvas, low: float, high: float) -> float:
    return float(np.exp(canvas.between(np.log(low), np.log(high))))
