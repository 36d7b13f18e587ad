"""Every frame that is handed in is reported, skipped or failed, whatever happens to the loop or around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.errors import BackendError, FrameError
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.frame_counters import Counters, FrameCounters
from edge_runtime.stream.loop import LEFT_BEHIND, Arrival, Failed, FrameLoop, Inspected, Rules
from edge_runtime.stream.tiling import Tiling
from tests.fakes import CRACK, ScriptedInspector

WAIT_S = 10.0
FRAME = np.zeros((8, 8, 3), np.uint8)
FOUND = InspectionReport(findings=(CRACK,), tokens=4)


def to_frame(message: str) -> NDArray[np.uint8]:
    if message != "whole":
        raise FrameError(f"{message} is no picture")
    return FRAME


def loop_of(
    inspector: ScriptedInspector, rules: Callable[[], Rules] = Rules
) -> tuple[FrameLoop[str], FrameCounters, Callable[[str], Arrival[str]]]:
    counters = FrameCounters(dropped=lambda: 0)

    def arrive(message: str) -> Arrival[str]:
        now_s = time.monotonic()
        return Arrival(counters.receive(now_s), "image", message, now_s)

    return FrameLoop(("image",), to_frame, inspector, counters, rules), counters, arrive


def test_a_frame_and_its_report_go_together_and_a_defect_is_numbered() -> None:
    loop, counters, arrive = loop_of(ScriptedInspector([FOUND]))
    outcome = loop.process(arrive("whole"))
    assert isinstance(outcome, Inspected)
    assert (outcome.index, outcome.camera, outcome.message) == (0, "image", "whole")
    assert outcome.report.findings[0].track_id == 1
    assert counters.counters() == Counters(received=1, reported=1)


def test_a_frame_is_looked_at_in_as_many_tiles_as_the_rules_say() -> None:
    inspector = ScriptedInspector([FOUND])
    loop, _, arrive = loop_of(inspector, lambda: Rules(tiling=Tiling(columns=2, rows=3), question="rust?"))
    loop.process(arrive("whole"))
    assert inspector.questions == ["rust?"] * 6


@pytest.mark.parametrize(
    ("script", "message", "reason", "engine_failures"),
    [
        (FOUND, "torn", "torn is no picture", 0),
        (FrameError("all black"), "whole", "all black", 0),
        (BackendError("NaN"), "whole", "NaN", 1),
        (ZeroDivisionError(), "whole", "ZeroDivisionError", 1),
    ],
)
def test_a_frame_that_fails_is_counted_with_its_reason(
    script: InspectionReport | Exception, message: str, reason: str, engine_failures: int
) -> None:
    loop, counters, arrive = loop_of(ScriptedInspector([script]))
    assert loop.process(arrive(message)) == Failed(0, "image", message, reason)
    assert counters.counters() == Counters(received=1, failed=1)
    assert counters.engine_failures == engine_failures
    assert counters.status(0.0).last_failure == f"frame 0: {reason}"


def test_a_report_that_cannot_be_published_is_a_failed_frame_and_not_the_engine_s_fault() -> None:
    def publish(inspected: Inspected[str]) -> None:
        raise OSError("no such topic")

    loop, counters, arrive = loop_of(ScriptedInspector())
    assert isinstance(loop.process(arrive("whole"), publish), Failed)
    assert counters.counters() == Counters(received=1, failed=1)
    assert counters.engine_failures == 0


def test_rules_that_cannot_be_told_fail_the_frame() -> None:
    def rules() -> Rules:
        raise ValueError("no such region")

    loop, counters, arrive = loop_of(ScriptedInspector(), rules)
    assert loop.process(arrive("whole")) == Failed(0, "image", "whole", "no such region")
    assert counters.counters() == Counters(received=1, failed=1)


def test_a_report_is_cut_at_its_next_token() -> None:
    loop, _, arrive = loop_of(ScriptedInspector([InspectionReport(tokens=10_000)]))
    loop.cut()
    outcome = loop.process(arrive("whole"))
    assert isinstance(outcome, Inspected)
    assert outcome.report.truncated


def test_a_frame_whose_inspection_is_left_has_failed_once_and_so_have_those_that_come_after() -> None:
    started, let_go = threading.Event(), threading.Event()

    class Patient(ScriptedInspector):
        def inspect(self, *arguments: object, **options: object) -> InspectionReport:
            started.set()
            assert let_go.wait(WAIT_S)
            return FOUND

    loop, counters, arrive = loop_of(Patient())
    ended: list[object] = []
    worker = threading.Thread(target=lambda: ended.append(loop.process(arrive("whole"))))
    worker.start()
    assert started.wait(WAIT_S)
    assert loop.busy_s > 0
    assert loop.leave() == Failed(0, "image", "whole", LEFT_BEHIND)
    let_go.set()
    worker.join(WAIT_S)
    assert ended == [None]
    assert loop.process(arrive("whole")) == Failed(1, "image", "whole", LEFT_BEHIND)
    assert loop.answer("whole", "", lambda written: True) == (None, LEFT_BEHIND)
    assert counters.counters() == Counters(received=2, failed=2)


def test_a_frame_that_is_asked_about_is_answered_beside_the_stream() -> None:
    loop, counters, _ = loop_of(ScriptedInspector([FOUND]))
    assert loop.answer("whole", "", lambda written: True) == (FOUND, "")
    assert loop.answer("torn", "", lambda written: True) == (None, "torn is no picture")
    assert counters.counters() == Counters()
