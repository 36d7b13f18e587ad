"""A drawn report shows every region, keeps its labels inside the frame and apart, and leaves the frame itself alone."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_runtime.reports.annotate import THUMBNAIL_WIDTH, Frame, draw_report, severity_colours, thumbnail_jpeg
from edge_runtime.reports.report import SEVERITIES, Finding, InspectionReport, Region
from edge_runtime.reports.schema import BRIDGE, Term

GREY = 127


def grey_frame(width: int, height: int) -> Frame:
    return np.full((height, width, 3), GREY, np.uint8)


def finding(severity: str, *region: float) -> Finding:
    return Finding("exposed_rebar", severity, Region(*region), 0.5, "", "monitor")


def pixels_of(picture: Frame, severity: str) -> Frame:
    bgr = severity_colours(len(SEVERITIES))[SEVERITIES.index(severity)][::-1]
    return cv2.inRange(picture, bgr, bgr) > 0


def label_boxes(picture: Frame, severity: str) -> list[tuple[int, int, int, int]]:
    """Left, top, width, height of the filled patches in a severity's colour; thin outlines are eroded away."""
    thick = cv2.morphologyEx(pixels_of(picture, severity).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    solid = cv2.erode(thick, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [cv2.boundingRect(contour) for contour in contours]


def test_the_frame_given_is_not_drawn_on() -> None:
    frame = grey_frame(320, 240)
    drawn = draw_report(frame, InspectionReport((finding("severe", 0.2, 0.2, 0.6, 0.6),)))
    assert (frame == GREY).all()
    assert (drawn != GREY).any()


def test_a_report_without_findings_gives_an_equal_copy() -> None:
    frame = grey_frame(64, 48)
    drawn = draw_report(frame, InspectionReport())
    assert drawn is not frame
    assert (drawn == frame).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_region_is_outlined_in_the_colour_of_its_severity(severity: str) -> None:
    drawn = draw_report(grey_frame(640, 480), InspectionReport((finding(severity, 0.25, 0.5, 0.75, 0.9),)))
    outline = pixels_of(drawn, severity)
    assert outline[432, 200:440].all()  # the foot of the box, 0.9 x 480
    assert outline[300:400, 160].all()  # its left edge, 0.25 x 640
    assert (drawn[300:400, 200:440] == GREY).all()  # what is inside stays to be seen


@pytest.mark.parametrize("width", [320, 640, 1920, 7680])
def test_letters_grow_with_the_frame_and_can_be_read_at_every_width(width: int) -> None:
    drawn = draw_report(grey_frame(width, width * 3 // 4), InspectionReport((finding("minor", 0.3, 0.4, 0.6, 0.6),)))
    rows = np.flatnonzero(pixels_of(drawn, "minor").sum(axis=1))
    label_height = round(width * 3 / 4 * 0.4) - rows.min()
    assert 13 <= label_height <= max(30, width / 20)


@pytest.mark.parametrize(
    "corner", [(0, 0, 0.1, 0.1), (0.9, 0, 1, 0.1), (0, 0.9, 0.1, 1), (0.9, 0.9, 1, 1), (0, 0, 1, 1)]
)
def test_a_label_at_the_edge_lies_whole_inside_the_frame(corner: tuple[float, ...]) -> None:
    in_the_middle = draw_report(grey_frame(640, 480), InspectionReport((finding("severe", 0.4, 0.4, 0.6, 0.6),)))
    at_the_edge = draw_report(grey_frame(640, 480), InspectionReport((finding("severe", *corner),)))
    [(*_, width, height)] = label_boxes(in_the_middle, "severe")
    [(*_, edge_width, edge_height)] = label_boxes(at_the_edge, "severe")
    assert abs(edge_width - width) <= 8
    assert abs(edge_height - height) <= 8


def test_labels_of_findings_in_one_place_do_not_cover_each_other() -> None:
    report = InspectionReport(tuple(finding(severity, 0.3, 0.3, 0.6, 0.6) for severity in SEVERITIES * 2))
    drawn = draw_report(grey_frame(640, 480), report)
    for severity in SEVERITIES:
        alone = draw_report(grey_frame(640, 480), InspectionReport((finding(severity, 0.3, 0.3, 0.6, 0.6),)))
        [(*_, width, height)] = label_boxes(alone, severity)
        seen = [box for box in label_boxes(drawn, severity) if box[2] >= width * 0.9]
        assert sum(round(box[3] / height) for box in seen) == 2  # two that touch are one box, twice as high


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 400), (400, 1), (40, 30), (60, 200)])
def test_a_frame_too_small_for_letters_still_shows_where(width: int, height: int) -> None:
    drawn = draw_report(grey_frame(width, height), InspectionReport((finding("critical", 0, 0, 1, 1),)))
    assert pixels_of(drawn, "critical").any()


def test_a_region_outside_the_frame_is_drawn_at_its_edge() -> None:
    drawn = draw_report(grey_frame(320, 240), InspectionReport((finding("minor", -0.5, 0.5, 3.0, 2.0),)))
    assert pixels_of(drawn, "minor")[200, :3].any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (640, 360)), ((640, 480), (640, 480)), ((9, 5), (9, 5)), ((7680, 2), (640, 1))],
)
def test_a_thumbnail_keeps_its_shape_and_is_at_most_640_wide(size: tuple[int, int], expected: tuple[int, int]) -> None:
    jpeg = thumbnail_jpeg(grey_frame(*size))
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert (picture.shape[1], picture.shape[0]) == expected
    assert expected[0] <= THUMBNAIL_WIDTH


def roof_report(boxes: str, *names: str) -> InspectionReport:
    schema = replace(BRIDGE, classes=tuple(map(Term, names)), severities=(Term("übel"),), boxes=boxes)
    parts = (Region(0.1, 0.6, 0.3, 0.9), Region(0.6, 0.6, 0.8, 0.9))
    found = Finding(names[0], "übel", Region(0.1, 0.6, 0.8, 0.9), 0.5, "", "", boxes=parts)
    return InspectionReport((found if boxes == "several" else replace(found, boxes=()),), schema=schema)


def coloured(picture: Frame) -> Frame:
    bgr = severity_colours(1)[0][::-1]
    return cv2.inRange(picture, bgr, bgr) > 0


def test_each_of_several_boxes_is_outlined() -> None:
    outline = coloured(draw_report(grey_frame(640, 480), roof_report("several", "Riss")))
    assert outline[300:420, 64].all()
    assert outline[300:420, 384].all()
    assert not outline[300:420, 250:350].any()  # between them


def test_a_schema_without_boxes_has_its_labels_drawn_alone() -> None:
    outline = coloured(draw_report(grey_frame(640, 480), roof_report("none", "Riss")))
    assert outline.any()
    assert not outline[300:420].any()


def test_a_name_that_the_font_has_no_letters_for_is_numbered() -> None:
    def drawn(*names: str) -> Frame:
        return draw_report(grey_frame(640, 480), roof_report("one", *names))

    assert (drawn("größe") == drawn("grosse")).all()
    assert (drawn("ひび割れ") == drawn("class 1")).all()
    assert (drawn("ひび割れ") != drawn("crack")).any()


def test_as_many_colours_as_severities_are_told_apart() -> None:
    for count in range(1, 10):
        colours = severity_colours(count)
        assert len(set(colours)) == count
