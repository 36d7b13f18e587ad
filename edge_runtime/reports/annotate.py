"""Draws a report onto its frame, and shrinks frames for the flight log; finds nothing and writes no file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import Finding, InspectionReport, Region
from edge_runtime.reports.schema import ReportSchema

Frame: TypeAlias = NDArray[np.uint8]  # (H, W, 3), BGR

# Told apart by hue and by lightness, so also in grey and by colour-blind eyes: pale blue, amber, orange, crimson.
_RAMP_RGB = ((125, 211, 252), (251, 191, 36), (249, 95, 22), (225, 29, 72))

THUMBNAIL_WIDTH = 640
_THUMBNAIL_QUALITY = 75

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = cv2.getTextSize("Hg", _FONT, 1.0, 1)[0][1]  # height at scale 1; OpenCV 4 and 5 differ
_SMALLEST_TEXT_PX = 13  # smaller letters of this font cannot be read
_TEXT_PER_FRAME_WIDTH = 1 / 64
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


class _Box(NamedTuple):
    """Pixels, the far edges excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def shared_area(self, other: _Box) -> int:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


class _Label(NamedTuple):
    text: str
    scale: float
    stroke: int
    width: int  # pixels, padding included
    height: int
    foot: tuple[int, int]  # where the letters stand, right and down from the label's top left


def severity_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """A colour (RGB, 0 to 255) for each of so many severities, mildest first: as many steps along one ramp."""
    places = np.linspace(0, len(_RAMP_RGB) - 1, count) if count > 1 else np.array([1.0])
    channels = [np.interp(places, range(len(_RAMP_RGB)), channel) for channel in zip(*_RAMP_RGB, strict=True)]
    return tuple((round(red), round(green), round(blue)) for red, green, blue in zip(*channels, strict=True))


def draw_report(frame: Frame, report: InspectionReport) -> Frame:
    """A copy of ``frame`` with every finding's boxes and a label on it; the label alone where its schema has no boxes.

    Lines and letters grow with the frame. A label lies inside the frame, and off the other labels where there is
    room; in a frame too small for letters only the regions are drawn.
    """
    picture: Frame = frame.copy()
    schema = report.schema
    colours = [(blue, green, red) for red, green, blue in severity_colours(len(schema.severities))]
    height, width = frame.shape[:2]
    line = max(2, round(max(width, height) / 400))
    graded = [(schema.severity_level(finding.severity), finding) for finding in report.findings]
    mildest_first = sorted(graded, key=lambda pair: pair[0])
    for level, finding in mildest_first:  # so that the worst lies on top
        for region in () if schema.boxes == "none" else finding.boxes or (finding.region,):
            box = _pixels(region, width, height)
            corners = (box.left, box.top), (box.right - 1, box.bottom - 1)
            cv2.rectangle(picture, *corners, _BLACK, line + 2)  # a rim, seen on bright ground and on dark
            cv2.rectangle(picture, *corners, colours[level], line)
    placed: list[_Box] = []
    for level, finding in reversed(mildest_first):  # the worst has the choice of places
        label = _largest_label(finding, schema, width, height)
        if label is not None:
            labelled = finding.boxes[0] if finding.boxes else finding.region
            spot = _place(label, _pixels(labelled, width, height), width, height, placed)
            placed.append(spot)
            _draw_label(picture, label, spot, colours[level])
    return picture


def thumbnail_jpeg(frame: Frame) -> bytes:
    """``frame`` as a JPEG for the flight log, at most :data:`THUMBNAIL_WIDTH` pixels wide."""
    height, width = frame.shape[:2]
    if width > THUMBNAIL_WIDTH:
        size = (THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width)))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    else:
        small = frame
    _, jpeg = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY))
    return bytes(jpeg)


def _pixels(region: Region, width: int, height: int) -> _Box:
    left, right = (min(max(round(x * width), 0), width - 1) for x in (region.x_min, region.x_max))
    top, bottom = (min(max(round(y * height), 0), height - 1) for y in (region.y_min, region.y_max))
    return _Box(left, top, right + 1, bottom + 1)


def _in_letters(name: str, otherwise: str) -> str:
    """A name in the letters that OpenCV's fonts have, accents dropped; ``otherwise`` where they have none for it."""
    plain = unicodedata.normalize("NFKD", name.replace("_", " ").replace("ß", "ss"))
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return plain if plain.isascii() else otherwise


def _largest_label(finding: Finding, schema: ReportSchema, width: int, height: int) -> _Label | None:
    """The label that says most and fits into the frame, if one does."""
    text_px = max(_SMALLEST_TEXT_PX, width * _TEXT_PER_FRAME_WIDTH)
    number = schema.class_names.index(finding.defect_class) + 1 if finding.defect_class in schema.class_names else "?"
    name = _in_letters(finding.defect_class, f"class {number}")
    severity = _in_letters(finding.severity, f"severity {schema.severity_level(finding.severity) + 1}")
    for text in (f"{name}, {severity} {finding.confidence:.0%}", name):
        scale = text_px / _FONT_PX
        stroke = max(1, round(text_px / 14))
        (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, stroke)
        pad = round(text_px / 4)
        size = text_width + 2 * pad, text_height + below + pad
        label = _Label(text, scale, stroke, *size, foot=(pad, text_height + pad // 2))
        if label.width <= width and label.height <= height:
            return label
    return None


def _place(label: _Label, region: _Box, width: int, height: int, taken: list[_Box]) -> _Box:
    """The first spot inside the frame that covers no other label, or the one that covers least."""
    right_most, lowest = width - label.width, height - label.height
    best, least_covered = None, 0
    for x, y in _spots(label, region, lowest):
        left, top = min(max(x, 0), right_most), min(max(y, 0), lowest)
        spot = _Box(left, top, left + label.width, top + label.height)
        covered = sum(spot.shared_area(other) for other in taken)
        if covered == 0:
            return spot
        if best is None or covered < least_covered:
            best, least_covered = spot, covered
    assert best is not None
    return best


def _spots(label: _Label, region: _Box, lowest: int) -> Iterator[tuple[int, int]]:
    """Left and top of places for a label, the most natural first: above, inside, below, then any row."""
    columns = (region.left, region.right - label.width)
    for y in (region.top - label.height, region.top, region.bottom):
        if 0 <= y <= lowest:
            for x in columns:
                yield x, y
    for y in sorted(range(0, lowest + 1, label.height), key=lambda row: abs(row - region.top)):
        for x in columns:
            yield x, y


def _draw_label(picture: Frame, label: _Label, spot: _Box, bgr: tuple[int, int, int]) -> None:
    cv2.rectangle(picture, (spot.left, spot.top), (spot.right - 1, spot.bottom - 1), bgr, cv2.FILLED)
    blue, green, red = bgr
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = _BLACK if luma > 120 else _WHITE
    foot = (spot.left + label.foot[0], spot.top + label.foot[1])
    cv2.putText(picture, label.text, foot, _FONT, label.scale, ink, label.stroke, cv2.LINE_AA)
