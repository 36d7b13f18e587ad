"""Render an inspection scene from a seed: the picture, what each pixel shows, and the perfect report."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES, Finding
from engines.reference.renderer.backdrops import paint_backdrop
from engines.reference.renderer.camera import photograph
from engines.reference.renderer.canvas import Canvas, Conditions
from engines.reference.renderer.defects import BITS, paint_defect
from engines.reference.renderer.distractors import BITS as DISTRACTOR_BITS
from engines.reference.renderer.distractors import DISTRACTORS, paint_distractor
from engines.reference.renderer.surfaces import SURFACES, paint_surface
from engines.reference.renderer.truth import finding_from_mask

SIZE = (336, 448)  # height, width of a frame unless asked otherwise

# Seeds below are trained on; from here on they are held out.
FIRST_HELD_OUT_SEED = 1_000_000_000

BACKDROP = "backdrop"

AS_TRAINED = Conditions()
# Where float16 is often in doubt, so that what precision costs decides about findings.
HARD = Conditions(contrast=0.55, size=0.65, crack_kinds=(0.8, 0.15, 0.05), distractors=(0.0, 0.2, 0.4, 0.4), noise=2.0)

_BACKDROP_SHARE = 0.12
_SURFACE_SHARE = (0.42, 0.2, 0.15, 0.23)
_DEFECT_WEIGHTS = {  # crack, corrosion, spalling, exposed_rebar, efflorescence
    "concrete": (0.36, 0.07, 0.2, 0.19, 0.18),
    "masonry": (0.42, 0.0, 0.28, 0.0, 0.3),
    "painted steel": (0.28, 0.72, 0.0, 0.0, 0.0),
    "bare steel": (0.28, 0.72, 0.0, 0.0, 0.0),
}
PAINT_ORDER = ("efflorescence", "corrosion", "spalling", "exposed_rebar", "crack")  # later ones stay on top


@dataclass(frozen=True)
class Scene:
    """A rendered frame and all that is true of it."""

    image: NDArray[np.uint8]  # (H, W, 3), BGR
    labels: NDArray[np.uint16]  # (H, W), one bit a layer: DEFECT_CLASSES, then DISTRACTORS
    findings: tuple[Finding, ...]  # in the order of DEFECT_CLASSES, at most one a class
    facts: dict[str, dict[str, str]]  # by defect class: the words its description uses
    surface: str  # one of SURFACES, or "backdrop" where no structure is in view
    distractors: tuple[str, ...]


def render_scene(seed: int, size: tuple[int, int] = SIZE, conditions: Conditions = AS_TRAINED) -> Scene:
    """Render the scene of ``seed`` at ``size`` (height, width); the same arguments give the same scene."""
    rng = np.random.default_rng(seed)
    if rng.random() < _BACKDROP_SHARE:
        return compose_scene(rng, size, BACKDROP, set(), (), conditions)
    surface = str(rng.choice(SURFACES, p=_SURFACE_SHARE))
    weights = np.array(_DEFECT_WEIGHTS[surface])
    wanted = int(rng.choice(4, p=(0.27, 0.4, 0.23, 0.1)))
    chosen = rng.choice(len(weights), size=min(wanted, int((weights > 0).sum())), replace=False, p=weights)
    defects = {DEFECT_CLASSES[index] for index in chosen}
    count = int(rng.choice(4, p=conditions.distractors))
    distractors = tuple(str(name) for name in rng.choice(DISTRACTORS, size=count, replace=False))
    return compose_scene(rng, size, surface, defects, distractors, conditions)


def compose_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    surface: str,
    defects: set[str] | frozenset[str],
    distractors: tuple[str, ...],
    conditions: Conditions = AS_TRAINED,
) -> Scene:
    """Paint the named things on ``surface`` and photograph them; where and how large is drawn from ``rng``."""
    canvas = Canvas(
        color=np.empty((*size, 3), np.float32),
        labels=np.zeros(size, np.uint16),
        rng=rng,
        light_rad=float(rng.uniform(0, 2 * np.pi)),
        conditions=conditions,
    )
    if surface == BACKDROP:
        paint_backdrop(canvas)
    else:
        paint_surface(canvas, surface)
    for name in distractors:
        if name != "shadow":
            paint_distractor(canvas, name)
    facts = {}
    for name in PAINT_ORDER:
        if name in defects:
            with canvas.faded(conditions.contrast):
                facts[name] = paint_defect(canvas, name, surface)
    if "shadow" in distractors:
        paint_distractor(canvas, "shadow")
    image, labels = photograph(canvas)
    findings = []
    for name in DEFECT_CLASSES:
        if name in facts:
            finding = finding_from_mask(name, _layer(labels, BITS[name]), facts[name], surface)
            if finding is None:  # hidden by another, or out of view
                labels &= np.uint16(~np.uint16(1 << BITS[name]))
            else:
                findings.append(finding)
    shown = tuple(name for name in distractors if _layer(labels, DISTRACTOR_BITS[name]).any())
    return Scene(image, labels, tuple(findings), facts, surface, shown)


def _layer(labels: NDArray[np.uint16], bit: int) -> NDArray[np.bool_]:
    return np.asarray(labels & np.uint16(1 << bit), bool)


def patch_coverage(labels: NDArray[np.uint16], grid: int) -> NDArray[np.float32]:
    """Share of every patch that each layer covers, as (grid, grid, layers)."""
    layers = len(BITS) + len(DISTRACTOR_BITS)
    planes = ((labels[..., None] >> np.arange(layers, dtype=np.uint16)) & 1).astype(np.float32)
    return np.stack([cv2.resize(planes[..., k], (grid, grid), interpolation=cv2.INTER_AREA) for k in range(layers)], -1)
