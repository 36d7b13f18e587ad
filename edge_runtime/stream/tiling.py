"""Looks at a part of a frame, or at a large frame in pieces, so that small defects stay large enough to be seen.

A model sees a few hundred pixels of whatever it is given: of a crack 2 pixels wide in a 4K frame nothing is left. Tiles
overlap, and what lies on a seam is one finding. Knows no model; what inspects a tile is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import WHOLE, Finding, InspectionReport, Region, Timings, holding
from edge_runtime.reports.schema import ReportSchema

_OVERLAP = 0.1  # of a tile, with its neighbour: a defect as large as that is whole in one of them
_SAME = 0.02  # of the frame: boxes of one defect on both sides of a seam come so close, or overlap


@dataclass(frozen=True)
class Tiling:
    """Which part of a frame is looked at, and in how many pieces."""

    region: Region = WHOLE
    columns: int = 1
    rows: int = 1


def inspect_in_tiles(
    frame: NDArray[np.uint8],
    tiling: Tiling,
    inspect: Callable[[NDArray[np.uint8]], InspectionReport],
    should_continue: Callable[[], bool] = lambda: True,
) -> InspectionReport:
    """The report of ``frame``, uint8 (H, W, 3), put together from those of its tiles; regions are of the whole frame.

    ``should_continue`` is asked before every tile but the first; where it says no, the report is marked truncated.
    Tokens and times are summed. What ``inspect`` raises passes through.
    """
    places = tuple(_places(tiling))
    if places == (WHOLE,):
        return inspect(frame)
    reports: list[InspectionReport] = []
    findings: list[Finding] = []
    seen: list[Region] = []
    for place in places:
        if reports and not should_continue():
            break
        report = inspect(_cut(frame, place))
        reports.append(report)
        seen += [_in_frame(part, place) for part in report.seen]
        for finding in report.findings:
            boxes = tuple(_in_frame(box, place) for box in finding.boxes)
            _add(findings, replace(finding, region=_in_frame(finding.region, place), boxes=boxes), report.schema)
    return InspectionReport(
        findings=tuple(findings),
        truncated=len(reports) < len(places) or any(report.truncated for report in reports),
        tokens=sum(report.tokens for report in reports),
        timings=_summed([report.timings for report in reports]),
        seen=tuple(seen),
        image_tokens=sum(report.image_tokens for report in reports),
        grid=reports[0].grid,
        schema=reports[0].schema,
    )


def _places(tiling: Tiling) -> Iterator[Region]:
    for y_min, y_max in _cuts(tiling.region.y_min, tiling.region.y_max, tiling.rows):
        for x_min, x_max in _cuts(tiling.region.x_min, tiling.region.x_max, tiling.columns):
            yield Region(x_min, y_min, x_max, y_max)


def _cuts(start: float, end: float, count: int) -> Iterator[tuple[float, float]]:
    size = (end - start) / count
    for number in range(count):
        first, last = start + number * size, start + (number + 1) * size
        yield max(first - size * _OVERLAP / 2, start), min(last + size * _OVERLAP / 2, end)


def _cut(frame: NDArray[np.uint8], place: Region) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    left, right = round(place.x_min * width), round(place.x_max * width)
    top, bottom = round(place.y_min * height), round(place.y_max * height)
    left, top = min(left, width - 1), min(top, height - 1)  # a tile is a pixel at least
    return frame[top : max(bottom, top + 1), left : max(right, left + 1)]


def _in_frame(region: Region, place: Region) -> Region:
    width, height = place.x_max - place.x_min, place.y_max - place.y_min
    return Region(
        place.x_min + region.x_min * width,
        place.y_min + region.y_min * height,
        place.x_min + region.x_max * width,
        place.y_min + region.y_max * height,
    )


def _add(findings: list[Finding], found: Finding, schema: ReportSchema) -> None:
    """Put a finding to the others, or make it one with those of its class that it touches."""
    for known in [known for known in findings if known.defect_class == found.defect_class]:
        if _touch(known.region, found.region):
            findings.remove(known)
            found = _joined(known, found, schema)
    findings.append(found)


def _touch(one: Region, other: Region) -> bool:
    return (
        one.x_min - _SAME <= other.x_max
        and other.x_min - _SAME <= one.x_max
        and one.y_min - _SAME <= other.y_max
        and other.y_min - _SAME <= one.y_max
    )


def _joined(one: Finding, other: Finding, schema: ReportSchema) -> Finding:
    """The graver of two sightings of one defect, in a region that holds both."""
    graver = max(one, other, key=lambda finding: (schema.severity_level(finding.severity), finding.confidence))
    region, boxes = holding([one.region, other.region]), (*one.boxes, *other.boxes)
    return replace(graver, region=region, boxes=boxes, confidence=max(one.confidence, other.confidence))


def _summed(timings: Sequence[Timings]) -> Timings:
    return Timings(*(sum(getattr(timing, step.name) for timing in timings) for step in fields(Timings)))
