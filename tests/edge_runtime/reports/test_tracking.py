"""One defect seen in many frames keeps its number while the camera moves; two defects never share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.reports.report import Finding, Region
from edge_runtime.reports.tracking import FindingTracker
from edge_runtime.vision.frame_signature import FrameSignature, signature_of
from tests.edge_runtime.scenery import moved, noisy, wall
from tests.fakes import CRACK

STILL = signature_of(wall())


def at(x: float, y: float, defect_class: str = "crack", size: float = 0.2) -> Finding:
    return replace(CRACK, defect_class=defect_class, region=Region(x, y, x + size, y + size))


def ids(findings: Sequence[Finding]) -> list[int | None]:
    return [finding.track_id for finding in findings]


def test_a_finding_that_stays_keeps_its_number_and_everything_else() -> None:
    tracker = FindingTracker(count(1))
    first, second = (tracker.follow([at(0.3, 0.3)], STILL, now_s) for now_s in (0.0, 1.0))
    assert ids(first) == ids(second) == [1]
    assert replace(second[0], track_id=None) == at(0.3, 0.3)


def test_one_crack_in_ten_frames_of_a_drifting_camera_is_one_track() -> None:
    tracker, picture = FindingTracker(count(1)), wall()
    seen = []
    for step in range(10):
        drift = 0.05 * step
        view = signature_of(noisy(moved(picture, drift, -drift / 2), seed=step))
        wander = 0.02 * (-1) ** step  # a model's regions are no better than that
        seen += ids(tracker.follow([at(0.1 + drift, 0.6 - drift / 2 + wander, size=0.15)], view, float(step)))
    assert seen == [1] * 10


def test_without_the_motion_of_the_picture_a_far_move_is_another_crack() -> None:
    tracker = FindingTracker(count(1))
    tracker.follow([at(0.1, 0.1, size=0.1)], STILL, 0.0)
    assert ids(tracker.follow([at(0.3, 0.3, size=0.1)], STILL, 1.0)) == [2]


def test_a_hairline_with_a_box_a_pixel_wide_is_followed() -> None:
    tracker = FindingTracker(count(1))
    hairline = replace(CRACK, region=Region(0.50, 0.1, 0.51, 0.9))
    beside = replace(CRACK, region=Region(0.52, 0.1, 0.53, 0.9))
    tracker.follow([hairline], STILL, 0.0)
    assert ids(tracker.follow([beside], STILL, 1.0)) == [1]


def test_findings_of_different_classes_in_one_place_are_different_tracks() -> None:
    tracker = FindingTracker(count(1))
    tracker.follow([at(0.3, 0.3, "spalling")], STILL, 0.0)
    assert ids(tracker.follow([at(0.3, 0.3, "exposed_rebar")], STILL, 1.0)) == [2]


def test_of_two_that_overlap_each_keeps_its_own() -> None:
    tracker = FindingTracker(count(1))
    left, right = at(0.3, 0.3), at(0.4, 0.3)
    tracker.follow([left, right], STILL, 0.0)
    assert ids(tracker.follow([right, left], STILL, 1.0)) == [2, 1]


def test_a_finding_that_is_missed_once_is_known_again() -> None:
    tracker = FindingTracker(count(1))
    tracker.follow([at(0.3, 0.3)], STILL, 0.0)
    tracker.follow([], STILL, 1.0)
    assert ids(tracker.follow([at(0.3, 0.3)], STILL, 2.0)) == [1]


def test_a_finding_that_left_the_frame_and_comes_back_is_known_again() -> None:
    tracker, picture = FindingTracker(count(1)), wall()
    there, away = signature_of(picture), signature_of(moved(picture, -0.2, 0.0))
    tracker.follow([at(0.0, 0.4, size=0.1)], there, 0.0)
    tracker.follow([], away, 1.0)
    assert ids(tracker.follow([at(0.0, 0.4, size=0.1)], there, 2.0)) == [1]


def test_after_a_cut_to_another_scene_every_finding_is_new() -> None:
    tracker = FindingTracker(count(1))
    tracker.follow([at(0.3, 0.3)], STILL, 0.0)
    assert ids(tracker.follow([at(0.3, 0.3)], signature_of(wall(99)), 1.0)) == [2]


def test_what_was_not_seen_for_long_is_new() -> None:
    tracker = FindingTracker(count(1))
    tracker.follow([at(0.3, 0.3)], STILL, 0.0)
    assert ids(tracker.follow([at(0.3, 0.3)], STILL, 60.0)) == [2]


def test_cameras_that_share_numbers_never_give_one_twice() -> None:
    numbers = count(1)
    front, belly = FindingTracker(numbers), FindingTracker(numbers)
    assert ids(front.follow([at(0.3, 0.3)], STILL, 0.0)) == [1]
    assert ids(belly.follow([at(0.3, 0.3)], STILL, 0.0)) == [2]
    assert ids(front.follow([at(0.3, 0.3)], STILL, 1.0)) == [1]


blank: FrameSignature = signature_of(np.full((48, 64, 3), 90, np.uint8))
corners = st.floats(-0.2, 0.9)
found = st.lists(st.builds(at, corners, corners, st.sampled_from(["crack", "spalling"]), st.floats(0, 0.5)), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(found, st.sampled_from([STILL, blank])), max_size=6))
def test_no_two_findings_of_a_frame_share_a_number(frames: list[tuple[list[Finding], FrameSignature]]) -> None:
    tracker = FindingTracker(count(1))
    for step, (findings, view) in enumerate(frames):
        followed = tracker.follow(findings, view, float(step))
        assert len(set(ids(followed))) == len(findings)
        assert [replace(finding, track_id=None) for finding in followed] == findings
