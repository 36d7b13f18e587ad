"""What reports are worth on real photographs: counts per source, and how far confidence may be believed.

Knows nothing of how the model was trained, nor where photographs come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime import InspectionReport, Inspector
from edge_runtime.reports.report import Finding, Region
from edge_runtime.reports.schema import BRIDGE
from engines.reference.photographs import EVERYTHING, Photograph, load_mask, load_picture

WINDOW_PX = 256  # side of the windows that are cut from photographs where their mask shows no crack
_BINS = 10  # of confidence
_SAME = 0.3  # intersection over union from which a region is that of the label


@dataclass(frozen=True)
class Count:
    """So many of so many."""

    part: int = 0
    whole: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.part + other.part, self.whole + other.whole)

    def __str__(self) -> str:
        return f"{self.part}/{self.whole} {self.part / self.whole:.2f}" if self.whole else ""


@dataclass(frozen=True)
class PhotoScores:
    """What was measured on the photographs of one source."""

    photos: int
    crack_found: Count  # photographs that show a crack in which one is reported
    corrosion_found: Count
    false_alarms: Count  # undamaged photographs, or windows, with any finding
    boxes_meet: Count  # hits of which a reported region holds a labelled pixel
    boxes_same: Count  # hits of which a reported region has an IoU of 0.3 or more with the box around the label
    calibration_error: float | None  # expected, over findings of classes that were looked for; None without any


@dataclass
class PhotoTally:
    """Counts while photographs of one source pass; ``scores`` closes the sum."""

    photos: int = 0
    crack_found: Count = field(default_factory=Count)
    corrosion_found: Count = field(default_factory=Count)
    false_alarms: Count = field(default_factory=Count)
    boxes_meet: Count = field(default_factory=Count)
    boxes_same: Count = field(default_factory=Count)
    confidences: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def add(self, photo: Photograph, mask: NDArray[np.bool_] | None, report: InspectionReport) -> None:
        """Compare one report with what is known of the photograph; ``mask``, (H, W), shows its masked defect."""
        self.photos += 1
        found = {finding.defect_class for finding in report.findings}
        if "crack" in photo.shows:
            self.crack_found += Count("crack" in found, 1)
        if "corrosion" in photo.shows:
            self.corrosion_found += Count("corrosion" in found, 1)
        if photo.is_undamaged:
            self.false_alarms += Count(bool(found), 1)
        for finding in report.findings:
            if finding.defect_class in photo.looked_for:
                self.confidences.append(finding.confidence)
                self.right.append(finding.defect_class in photo.shows)
        for name in sorted(photo.shows & found):
            self._add_regions(photo, mask, name, [f for f in report.findings if f.defect_class == name])

    def _add_regions(
        self, photo: Photograph, mask: NDArray[np.bool_] | None, name: str, findings: list[Finding]
    ) -> None:
        labelled = [box.region for box in photo.boxes if box.defect_class == name]
        if photo.mask is not None and photo.mask.defect_class == name and mask is not None and mask.any():
            self.boxes_meet += Count(any(_holds(finding.region, mask) for finding in findings), 1)
            labelled = [_around(mask)]
        elif labelled:
            self.boxes_meet += Count(any(f.region.iou(box) > 0 for f in findings for box in labelled), 1)
        if labelled:
            self.boxes_same += Count(any(f.region.iou(box) >= _SAME for f in findings for box in labelled), 1)

    def scores(self) -> PhotoScores:
        """The counts over all photographs so far."""
        return PhotoScores(
            photos=self.photos,
            crack_found=self.crack_found,
            corrosion_found=self.corrosion_found,
            false_alarms=self.false_alarms,
            boxes_meet=self.boxes_meet,
            boxes_same=self.boxes_same,
            calibration_error=calibration_error(self.confidences, self.right),
        )

    def __add__(self, other: PhotoTally) -> PhotoTally:
        return PhotoTally(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Expected calibration error: how far, in each tenth of confidence, it lies from the share that is right."""
    if not confidences:
        return None
    values, truth = np.asarray(confidences), np.asarray(right, float)
    bins = np.minimum((values * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float(values[bins == b].sum() - truth[bins == b].sum())) for b in np.unique(bins)]
    return sum(gaps) / len(values)


def crack_free_windows(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
    """Close-ups of ``image`` (H, W, 3) side by side, 256 px a side, in which ``mask`` (H, W) shows no pixel."""
    height, width = mask.shape
    for top in range(0, height - WINDOW_PX + 1, WINDOW_PX):
        for left in range(0, width - WINDOW_PX + 1, WINDOW_PX):
            place = slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)
            if not mask[place].any():
                yield np.ascontiguousarray(image[place])


def close_ups(photo: Photograph, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> list[NDArray[np.uint8]]:
    """The crack-free windows of a photograph with a crack mask that is larger than a window; of others none."""
    if mask is None or photo.mask is None or photo.mask.defect_class != "crack" or min(mask.shape) <= WINDOW_PX:
        return []
    return list(crack_free_windows(image, mask))


def evaluate_photos(
    bundles: Sequence[str],
    photos: Sequence[Photograph],
    progress: Callable[[Sequence[Photograph]], Iterable[Photograph]],
) -> dict[str, dict[str, PhotoScores]]:
    """Scores by bundle path and source, all on the same photographs; the source ``all`` is the sum of the others.

    A photograph with a crack mask that is larger than a window gives its crack-free windows too, as a source of their
    own; whole, it can't be said to be undamaged.
    """
    tallies: dict[str, dict[str, PhotoTally]] = {bundle: {} for bundle in bundles}
    with ExitStack() as stack:
        inspectors = {bundle: stack.enter_context(Inspector.open(bundle, schema=BRIDGE)) for bundle in bundles}
        for photo in progress(photos):
            image = load_picture(photo)
            mask = load_mask(photo, image.shape[:2])
            source = f"{photo.source}, faint" if photo.faint else photo.source
            windows = close_ups(photo, image, mask)
            sound = Photograph(photo.path, f"{photo.source}, crack-free windows", frozenset(), EVERYTHING)
            for bundle, inspector in inspectors.items():
                rows = tallies[bundle]
                rows.setdefault(source, PhotoTally()).add(photo, mask, inspector.inspect(image))
                for window in windows:
                    rows.setdefault(sound.source, PhotoTally()).add(sound, None, inspector.inspect(window))
    results = {}
    for bundle, rows in tallies.items():
        together = sum(rows.values(), PhotoTally())
        results[bundle] = {name: tally.scores() for name, tally in sorted(rows.items())} | {"all": together.scores()}
    return results


def photo_table(results: dict[str, dict[str, PhotoScores]]) -> str:
    """The scores as Markdown: a table for each bundle, a source a row."""
    return "\n\n".join(_table(bundle, rows) for bundle, rows in results.items())


def _table(bundle: str, rows: dict[str, PhotoScores]) -> str:
    titles = (
        "photos",
        "crack found",
        "corrosion found",
        "false alarms",
        "box meets label",
        "box IoU 0.3",
        "calibration error",
    )
    lines = [f"| {bundle} | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for source, s in rows.items():
        error = "" if s.calibration_error is None else f"{s.calibration_error:.2f}"
        counts = (s.crack_found, s.corrosion_found, s.false_alarms, s.boxes_meet, s.boxes_same)
        lines.append(f"| {source} | {s.photos} | " + " | ".join(map(str, counts)) + f" | {error} |")
    return "\n".join(lines)


def _holds(region: Region, mask: NDArray[np.bool_]) -> bool:
    height, width = mask.shape
    rows = slice(int(region.y_min * height), int(np.ceil(region.y_max * height)))
    columns = slice(int(region.x_min * width), int(np.ceil(region.x_max * width)))
    return bool(mask[rows, columns].any())


def _around(mask: NDArray[np.bool_]) -> Region:
    height, width = mask.shape
    y, x = np.nonzero(mask)
    return Region(x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height)
