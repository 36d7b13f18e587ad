"""Files are inspected frame by frame; of a camera, the newest frame is, and the others are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import BackendError, FrameError, SourceError
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.change_gate import DEFAULT_THRESHOLD, GateRule
from edge_runtime.stream.frame_counters import Counters
from edge_runtime.stream.loop import Rules
from edge_runtime.stream.source_stream import SourceStream
from edge_runtime.stream.sources import FrameSource, SourcedFrame, open_source
from tests.fakes import CRACK, FakeCamera, ScriptedInspector

ONCE_A_MINUTE = Rules(GateRule(DEFAULT_THRESHOLD, refresh_s=60.0))
EVERY_3_S = Rules(GateRule(DEFAULT_THRESHOLD, refresh_s=3.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    return tmp_path


def test_every_image_of_a_folder_is_inspected_in_order(folder: Path) -> None:
    with closing(SourceStream(ScriptedInspector(delay_s=0.01), open_source(str(folder)))) as stream:
        outcomes = list(stream)
    assert [(outcome.index, outcome.frame.name) for outcome in outcomes] == [(i, f"{i}.png") for i in range(4)]
    assert stream.counters == Counters(received=4, reported=4)


def test_a_damaged_image_is_received_and_fails_in_its_place(folder: Path) -> None:
    (folder / "1.png").write_bytes(b"damaged")
    with closing(SourceStream(ScriptedInspector(), open_source(str(folder)))) as stream:
        outcomes = list(stream)
    assert [outcome.index for outcome in outcomes if outcome.report] == [0, 2, 3]
    assert "1.png is damaged" in outcomes[1].failure
    assert stream.counters == Counters(received=4, reported=3, failed=1)


def test_a_frame_that_cannot_be_inspected_is_an_outcome_and_the_stream_goes_on(folder: Path) -> None:
    inspector = ScriptedInspector([InspectionReport(), FrameError("all black")])
    with closing(SourceStream(inspector, open_source(str(folder)))) as stream:
        failures = [outcome.failure for outcome in stream]
    assert failures == ["", "all black", "", "all black"]
    assert stream.counters == Counters(received=4, reported=2, failed=2)


def test_a_frame_at_which_the_engine_fails_is_an_outcome_and_the_stream_goes_on(folder: Path) -> None:
    inspector = ScriptedInspector([BackendError("NaN"), BackendError("NaN"), InspectionReport()])
    with closing(SourceStream(inspector, open_source(str(folder)))) as stream:
        failures = [outcome.failure for outcome in stream]
    assert failures == ["NaN", "NaN", "", "NaN"]
    assert stream.counters == Counters(received=4, reported=1, failed=3)


def test_an_engine_that_fails_again_and_again_ends_the_stream(folder: Path) -> None:
    with closing(SourceStream(ScriptedInspector([BackendError("out of memory")]), open_source(str(folder)))) as stream:
        outcomes = iter(stream)
        assert [next(outcomes).failure, next(outcomes).failure] == ["out of memory"] * 2
        with pytest.raises(BackendError, match="out of memory"):
            next(outcomes)
    assert stream.counters == Counters(received=3, failed=3)


def test_a_slow_inspector_gets_the_newest_frames_of_a_camera_and_none_is_lost_uncounted() -> None:
    with closing(SourceStream(ScriptedInspector(delay_s=0.05), FakeCamera(40, period_s=0.005))) as stream:
        indices = [outcome.index for outcome in stream]
    assert indices == sorted(set(indices))
    assert indices[-1] == 39  # the newest is never the one that is dropped
    assert stream.counters == Counters(received=40, reported=len(indices), dropped=40 - len(indices))
    assert stream.counters.dropped > 0


def test_a_camera_that_vanishes_is_an_error_after_its_last_frame() -> None:
    camera = FakeCamera(1, error=SourceError("unplugged"))
    with closing(SourceStream(ScriptedInspector(), camera)) as stream:
        outcomes = iter(stream)
        assert next(outcomes).index == 0
        with pytest.raises(SourceError, match="unplugged"):
            next(outcomes)
    assert camera.closed


def test_a_camera_whose_library_fails_is_an_error_too() -> None:
    camera = FakeCamera(1, error=cv2.error("assertion failed"))
    with closing(SourceStream(ScriptedInspector(), camera)) as stream:
        outcomes = iter(stream)
        assert next(outcomes).index == 0
        with pytest.raises(SourceError, match=r"the source failed: .*assertion failed"):
            next(outcomes)


def test_closing_a_stream_stops_its_camera() -> None:
    camera = FakeCamera(1_000_000, period_s=0.001)
    with closing(SourceStream(ScriptedInspector(), camera)) as stream:
        next(iter(stream))
    received = stream.counters.received
    assert camera.closed
    assert received < 1_000_000
    assert stream.counters.received == received


def test_frames_that_show_nothing_new_are_skipped_and_counted(folder: Path) -> None:
    inspector = ScriptedInspector([InspectionReport()])
    with closing(SourceStream(inspector, open_source(str(folder)), ONCE_A_MINUTE)) as stream:
        assert [outcome.index for outcome in stream] == [0]
    assert stream.counters == Counters(received=4, reported=1, skipped=3)
    assert len(inspector.frame_shapes) == 1


def test_a_frame_that_failed_does_not_hide_the_next_one(folder: Path) -> None:
    inspector = ScriptedInspector([FrameError("torn"), InspectionReport()])
    with closing(SourceStream(inspector, open_source(str(folder)), ONCE_A_MINUTE)) as stream:
        assert [outcome.index for outcome in stream] == [0, 1]
    assert stream.counters == Counters(received=4, reported=1, skipped=2, failed=1)


@pytest.mark.parametrize(("is_tracked", "numbers"), [(True, [1, 1, 1, 1]), (False, [None] * 4)])
def test_defects_are_followed_through_a_folder_only_where_somebody_asks_for_it(
    folder: Path, is_tracked: bool, numbers: list[int | None]
) -> None:
    inspector = ScriptedInspector([InspectionReport(findings=(CRACK,))])
    with closing(SourceStream(inspector, open_source(str(folder)), is_tracked=is_tracked)) as stream:
        assert [outcome.report.findings[0].track_id for outcome in stream if outcome.report] == numbers


def test_a_defect_that_stays_in_view_keeps_its_number() -> None:
    inspector = ScriptedInspector([InspectionReport(findings=(CRACK,))])
    with closing(SourceStream(inspector, Film())) as stream:
        numbers = [outcome.report.findings[0].track_id for outcome in stream if outcome.report]
    assert numbers == [1] * 6


def test_of_frames_without_a_time_one_is_inspected_now_and_then_whatever_it_shows() -> None:
    class Untimed(Film):
        def __iter__(self) -> Iterator[SourcedFrame]:
            return (replace(frame, stamp_s=None) for frame in super().__iter__())

    with closing(SourceStream(ScriptedInspector(), Untimed(), EVERY_3_S)) as stream:
        assert [(outcome.index, outcome.frame.stamp_s) for outcome in stream] == [(0, None), (3, None)]


def test_a_report_that_takes_longer_than_its_deadline_is_cut(folder: Path) -> None:
    inspector = ScriptedInspector([InspectionReport(tokens=10_000)], token_delay_s=0.01)
    with closing(SourceStream(inspector, open_source(str(folder)), rules=Rules(deadline_s=0.05))) as stream:
        report = next(iter(stream)).report
    assert report is not None
    assert report.truncated
    assert report.tokens < 10_000


class Film(FrameSource):
    """The same picture again and again, one every second of its own time."""

    def __iter__(self) -> Iterator[SourcedFrame]:
        for second in range(6):
            yield SourcedFrame(np.zeros((8, 8, 3), np.uint8), f"{second} s", float(second))


def test_the_time_of_a_film_is_the_one_in_which_it_was_filmed() -> None:
    with closing(SourceStream(ScriptedInspector(), Film(), EVERY_3_S)) as stream:
        assert [outcome.frame.stamp_s for outcome in stream] == [0.0, 3.0]


def test_a_defect_that_is_seen_again_much_later_in_a_film_is_another_one() -> None:
    class Slow(Film):
        def __iter__(self) -> Iterator[SourcedFrame]:
            return (replace(frame, stamp_s=60.0 * index) for index, frame in enumerate(super().__iter__()))

    inspector = ScriptedInspector([InspectionReport(findings=(CRACK,))])
    with closing(SourceStream(inspector, Slow())) as stream:
        numbers = [outcome.report.findings[0].track_id for outcome in stream if outcome.report]
    assert numbers == [1, 2, 3, 4, 5, 6]
