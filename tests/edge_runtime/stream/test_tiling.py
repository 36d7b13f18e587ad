"""A frame in pieces gives the findings of the whole frame, each once, where they are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.reports.report import InspectionReport, Region, Timings
from edge_runtime.reports.schema import BRIDGE, Term
from edge_runtime.stream.tiling import Tiling, inspect_in_tiles
from tests.fakes import CRACK

FRAME = np.zeros((400, 800, 3), np.uint8)


def painted(*boxes):
    """A black frame with white boxes, given in fractions."""
    frame = FRAME.copy()
    for x_min, y_min, x_max, y_max in boxes:
        frame[round(y_min * 400) : round(y_max * 400), round(x_min * 800) : round(x_max * 800)] = 255
    return frame


def see_white(tile):
    """An inspector that finds the box around all that is white, if there is any."""
    rows, columns = np.nonzero(tile[..., 0])
    if not rows.size:
        return InspectionReport(tokens=1, timings=Timings(total_ms=5.0))
    height, width = tile.shape[:2]
    corners = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
    found = replace(CRACK, region=Region(*map(float, corners)))
    return InspectionReport((found,), tokens=9, timings=Timings(vision_ms=2.0, total_ms=5.0))


def regions(report):
    return [tuple(vars(finding.region).values()) for finding in report.findings]


def test_without_tiles_the_frame_itself_is_inspected_and_not_copied():
    seen = []
    inspect_in_tiles(FRAME, Tiling(), lambda tile: seen.append(tile) or InspectionReport())
    assert seen[0] is FRAME


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 85), st.integers(2, 85))
def test_a_defect_is_found_once_and_where_it_is_on_a_seam_or_off_it(columns, rows, x_percent, y_percent):
    box = (x_percent / 100, y_percent / 100, x_percent / 100 + 0.1, y_percent / 100 + 0.1)
    report = inspect_in_tiles(painted(box), Tiling(columns=columns, rows=rows), see_white)
    assert regions(report) == [pytest.approx(box, abs=0.005)]


def test_two_defects_in_two_tiles_are_two():
    report = inspect_in_tiles(painted((0.1, 0.1, 0.2, 0.2), (0.8, 0.8, 0.9, 0.9)), Tiling(columns=2), see_white)
    assert len(report.findings) == 2


def test_of_one_defect_in_two_tiles_the_graver_sighting_counts():
    reports = iter([("moderate", 0.9), ("critical", 0.4)])

    def see(tile):
        severity, confidence = next(reports)
        region = Region(0.0, 0.4, 1.0, 0.6)
        return InspectionReport((replace(CRACK, severity=severity, confidence=confidence, region=region),))

    (finding,) = inspect_in_tiles(FRAME, Tiling(columns=2), see).findings
    assert (finding.severity, finding.confidence) == ("critical", 0.9)
    assert finding.region == Region(0.0, 0.4, 1.0, 0.6)


def test_only_the_region_of_interest_is_looked_at():
    tiling = Tiling(Region(0.5, 0.0, 1.0, 0.5))
    frame = painted((0.1, 0.1, 0.2, 0.2), (0.6, 0.2, 0.7, 0.3))
    assert regions(inspect_in_tiles(frame, tiling, see_white)) == [pytest.approx((0.6, 0.2, 0.7, 0.3), abs=0.005)]


def test_tokens_and_times_are_summed():
    report = inspect_in_tiles(painted((0.1, 0.1, 0.2, 0.2)), Tiling(columns=2, rows=2), see_white)
    assert report.tokens == 9 + 3
    assert (report.timings.total_ms, report.timings.vision_ms) == (20.0, 2.0)
    assert not report.truncated


def test_tiles_that_come_after_the_deadline_are_left_out_and_the_report_says_so():
    report = inspect_in_tiles(
        painted((0.1, 0.1, 0.2, 0.2)), Tiling(columns=4), see_white, should_continue=lambda: False
    )
    assert report.truncated
    assert len(report.findings) == 1
    assert report.timings.total_ms == 5.0


def test_the_smallest_frame_has_tiles_of_at_least_a_pixel():
    shapes = []
    one = np.zeros((1, 1, 3), np.uint8)
    inspect_in_tiles(one, Tiling(columns=4, rows=4), lambda tile: shapes.append(tile.shape) or InspectionReport())
    assert all(height >= 1 and width >= 1 for height, width, _ in shapes)


def test_boxes_of_one_defect_in_two_tiles_are_kept_apart_and_its_schema_is_the_reports():
    schema = replace(BRIDGE, name="mine", boxes="several", severities=(Term("low"), Term("high")))
    reports = iter([("low", {"count": 1}), ("high", {"count": 2})])

    def see(tile):
        severity, values = next(reports)
        region = Region(0.0, 0.4, 1.0, 0.6)
        found = replace(CRACK, severity=severity, region=region, boxes=(region,), fields=values)
        return InspectionReport((found,), schema=schema)

    report = inspect_in_tiles(FRAME, Tiling(columns=2), see)
    [found] = report.findings
    assert report.schema is schema
    assert (found.severity, found.fields) == ("high", {"count": 2})
    assert [box.x_min for box in found.boxes] == pytest.approx([0.0, 0.475])
    assert [box.x_max for box in found.boxes] == pytest.approx([0.525, 1.0])
