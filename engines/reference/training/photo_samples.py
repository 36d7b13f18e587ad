"""Training samples from photographs, alone or mixed with lifelike scenes; what a label leaves open stays open.

A mask says for each patch whether its class shows there. A tile with a crack says so of none of its patches, but of all
that lie beside it. A picture with a crack somewhere teaches that, and nothing else. A photograph of something
undamaged shows none of the classes. Pictures are never stored, in no form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES, SEVERITIES, Finding, Region
from engines.reference.photographs import Photograph, load_mask, load_picture
from engines.reference.renderer.defects import BITS, CRACK_WIDTHS
from engines.reference.renderer.distractors import DISTRACTORS
from engines.reference.renderer.lifelike import Background, render_lifelike_scene
from engines.reference.renderer.scenes import BACKDROP
from engines.reference.renderer.surfaces import SURFACES
from engines.reference.renderer.truth import finding_from_mask
from engines.reference.training.samples import (
    DIRECTIONS,
    GRID,
    Sample,
    render_sample,
    render_size,
    sample_of_scene,
    shrunk,
)

Value = TypeVar("Value", bound=np.generic)

_LEAST_BACKGROUND_PX = 400
_WHOLE_SHARE = 0.4  # of photographs; of others a part is shown
_PHOTO_SHARE = 0.4  # of samples, where there are photographs
_SHIPPED_SHARE = 0.3  # of scenes; others are lifelike
_SURFACE_OF_CLASS = {"corrosion": "steel"}  # in an answer about a photograph of which no more is known
_CRACK = BITS["crack"]
_LAYERS = len(DEFECT_CLASSES) + len(DISTRACTORS)


@dataclass(frozen=True)
class Mixture:
    """Makes a sample of a seed: two in five show photographs, where there are any, the others scenes of both looks."""

    photos: tuple[Photograph, ...] = ()
    backgrounds: tuple[Background, ...] = ()

    def __call__(self, seed: int) -> Sample:
        """The sample of ``seed``."""
        rng = np.random.default_rng((seed, len(self.photos)))
        if self.photos and rng.random() < _PHOTO_SHARE:
            return sample_of_photo(self.photos[int(rng.integers(len(self.photos)))], rng)
        if rng.random() < _SHIPPED_SHARE:
            return render_sample(seed)
        return sample_of_scene(render_lifelike_scene(seed, render_size(seed), self.backgrounds))


def mixture(photos: Sequence[Photograph]) -> Mixture:
    """What is trained on, of the photographs in a list for training: faint cracks are left out."""
    return Mixture(tuple(photo for photo in photos if not photo.faint), tuple(backgrounds(photos)))


def has_answer(photo: Photograph) -> bool:
    """Whether the labels say what a report would open with: no finding, or the only class that they name."""
    return not photo.faint and (photo.is_undamaged or len(photo.shows) == 1)


def backgrounds(photos: Sequence[Photograph]) -> list[Background]:
    """The undamaged photographs that defects may be painted on, as their surface is known and they are large enough."""
    found = []
    for photo in photos:
        if photo.is_undamaged and min(load_picture(photo).shape[:2]) >= _LEAST_BACKGROUND_PX:
            if photo.surface:
                found.append(Background(photo.path, photo.surface))
            elif photo.source != "vt_clean_windows":  # steel or concrete, and nothing says which
                found.append(Background(photo.path, BACKDROP))
    return found


def sample_of_photo(photo: Photograph, rng: np.random.Generator) -> Sample:
    """The photograph, or a part of it, at the model's resolution, with what its labels say of each patch."""
    image = load_picture(photo)
    mask = load_mask(photo, image.shape[:2])
    view = _view(photo, rng)
    image = _cut(image, view)
    coverage = np.zeros((GRID, GRID, _LAYERS), np.uint8)
    known = np.zeros((GRID, GRID, _LAYERS), bool)
    for name in photo.looked_for - photo.shows:
        known[..., BITS[name]] = True
    sample = Sample(
        image=shrunk(image),
        coverage=coverage,
        boxes=np.zeros((len(DEFECT_CLASSES), 4), np.float32),
        severity=np.full(len(DEFECT_CLASSES), -1, np.int64),
        surface=SURFACES.index(photo.surface) if photo.surface else -1,
        direction=-1,
        bars=-1,
        findings=(),
        known=known,
    )
    if photo.mask is not None and mask is not None:
        sample = _with_mask(sample, photo, photo.mask.defect_class, _cut(mask, view))
    elif photo.boxes:
        sample = _with_boxes(sample, photo, view)
    elif photo.shows == {"crack"}:
        sample = replace(sample, somewhere=np.ones((GRID, GRID), bool), opens_with="crack")
    elif photo.shows:
        sample = replace(sample, opens_with="")
    if len(photo.shows) > 1:
        sample = replace(sample, opens_with="")
    return sample if photo.source == "vt_corrosion" else _turned(sample, rng)


def _view(photo: Photograph, rng: np.random.Generator) -> Region:
    """The part that is shown: all of it where only the whole is labelled."""
    only_whole = bool(photo.shows) and photo.mask is None and not photo.boxes
    if only_whole or rng.random() < _WHOLE_SHARE:
        return Region(0, 0, 1, 1)
    side = rng.uniform(0.55, 1.0)
    x, y = rng.uniform(0, 1 - side, 2)
    return Region(x, y, x + side, y + side)


def _cut(picture: NDArray[Value], view: Region) -> NDArray[Value]:
    height, width = picture.shape[:2]
    rows = slice(round(view.y_min * height), max(round(view.y_max * height), round(view.y_min * height) + 1))
    columns = slice(round(view.x_min * width), max(round(view.x_max * width), round(view.x_min * width) + 1))
    return picture[rows, columns]


def _with_mask(sample: Sample, photo: Photograph, defect_class: str, mask: NDArray[np.bool_]) -> Sample:
    bit = BITS[defect_class]
    share = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    sample.coverage[..., bit] = np.round(share * 255)
    assert sample.known is not None
    sample.known[..., bit] = True
    facts = {"width": _width_of(mask), "direction": _direction_of(mask)} if defect_class == "crack" else {}
    surface = photo.surface or _SURFACE_OF_CLASS.get(defect_class, "")
    finding = finding_from_mask(defect_class, mask, facts, surface)
    if finding is None:
        return replace(sample, opens_with="") if mask.any() else sample
    box = finding.region
    sample.boxes[bit] = box.x_min, box.y_min, box.x_max, box.y_max
    sample.severity[bit] = SEVERITIES.index(finding.severity)
    sample = replace(sample, findings=(finding,)) if surface else replace(sample, opens_with=defect_class)
    if defect_class != "crack":
        return sample
    return replace(sample, direction=DIRECTIONS.index(facts["direction"]))


def _width_of(crack: NDArray[np.bool_]) -> str:
    """The word for a crack as wide as this mask: its widest tenth counts, as twice the way to the nearest edge."""
    if not crack.any():
        return "hairline"
    inside = cv2.distanceTransform(crack.astype(np.uint8), cv2.DIST_L2, 3)[crack]
    per_mille = 2000 * float(np.quantile(inside, 0.9)) / crack.shape[1]
    for kind, (_, upper) in CRACK_WIDTHS.items():
        if per_mille < upper:
            return kind
    return "wide"


def _direction_of(crack: NDArray[np.bool_]) -> str:
    """The word for the direction in which the mask's pixels spread most, across a picture that is shown square."""
    y, x = np.nonzero(crack)
    if len(x) < 2:
        return "diagonal"
    _, axes = np.linalg.eigh(np.cov(np.stack([x / crack.shape[1], y / crack.shape[0]])))
    along_x, along_y = np.abs(axes[:, -1])
    slope = float(np.degrees(np.arctan2(along_y, along_x)))
    return "horizontal" if slope < 25 else "vertical" if slope > 65 else "diagonal"


def _with_boxes(sample: Sample, photo: Photograph, view: Region) -> Sample:
    """Tight boxes show their class all over; in another one lies a crack somewhere, if the view has the whole of it."""
    assert sample.known is not None
    open_patches, somewhere = np.zeros((GRID, GRID), bool), np.zeros((GRID, GRID), bool)
    opens_with = ""
    for box in photo.boxes:
        patches = _patches(box.region, view)
        if box.tight:
            sample.coverage[patches][..., BITS[box.defect_class]] = 255
            sample.known[..., BITS[box.defect_class]] = True
            if sample.coverage[..., BITS[box.defect_class]].any():
                opens_with = box.defect_class
            continue
        open_patches[patches] = True
        if _shared(box.region, view) > 0.9:
            somewhere[patches] = True
    if any(not box.tight for box in photo.boxes):
        sample.known[..., _CRACK] = ~open_patches
    if somewhere.any():
        return replace(sample, somewhere=somewhere, opens_with="crack")
    return replace(sample, opens_with=opens_with)


def _patches(box: Region, view: Region) -> tuple[slice, slice]:
    """Rows and columns of the grid over ``view`` that ``box`` touches."""
    height, width = view.y_max - view.y_min, view.x_max - view.x_min
    rows = (box.y_min - view.y_min) / height * GRID, (box.y_max - view.y_min) / height * GRID
    columns = (box.x_min - view.x_min) / width * GRID, (box.x_max - view.x_min) / width * GRID
    (top, bottom), (left, right) = (
        (max(int(np.floor(low + 1e-6)), 0), max(int(np.ceil(high - 1e-6)), 0)) for low, high in (rows, columns)
    )
    return slice(top, bottom), slice(left, right)


def _shared(box: Region, view: Region) -> float:
    """Share of ``box`` that lies in ``view``."""
    width = min(box.x_max, view.x_max) - max(box.x_min, view.x_min)
    height = min(box.y_max, view.y_max) - max(box.y_min, view.y_min)
    return max(width, 0) * max(height, 0) / max(box.area, 1e-9)


def _turned(sample: Sample, rng: np.random.Generator) -> Sample:
    """Upside down half of the time: a camera below a deck has no up."""
    if rng.random() < 0.5:
        return sample
    boxes = sample.boxes.copy()
    boxes[:, [1, 3]] = np.where(sample.severity[:, None] >= 0, 1 - boxes[:, [3, 1]], 0)
    return replace(
        sample,
        image=sample.image[::-1],
        coverage=sample.coverage[::-1],
        boxes=boxes,
        findings=tuple(_upside_down(finding) for finding in sample.findings),
        known=None if sample.known is None else sample.known[::-1],
        somewhere=None if sample.somewhere is None else sample.somewhere[::-1],
    )


def _upside_down(finding: Finding) -> Finding:
    box = finding.region
    return replace(finding, region=Region(box.x_min, 1 - box.y_max, box.x_max, 1 - box.y_min))
