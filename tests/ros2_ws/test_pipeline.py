"""Every frame that arrives is reported, dropped for a newer one, or failed: nothing else, and none of it silently."""

import threading
import time

import numpy as np
import pytest
from inspection_ros.pipeline import Pipeline, Request

from edge_runtime.errors import BudgetExceededError, FrameError
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.change_gate import GateRule
from edge_runtime.stream.frame_counters import Counters
from edge_runtime.stream.loop import Failed, Rules

WAIT_S = 10.0
FRAME = np.zeros((2, 2, 3), np.uint8)
CAMERA = "image"


class Exhausted:
    """Rests that nobody can take."""

    def pop(self):
        raise BudgetExceededError("memory has not come back")


class Patient:
    """An inspector that waits to be let go, and then finds nothing."""

    def __init__(self, patient=True):
        self.started = threading.Event()
        self.let_go = threading.Event()
        self.closed = threading.Event()
        self.questions = []
        self.cut = []
        self.rests = []
        if not patient:
            self.let_go.set()

    def inspect(self, frame, question="", should_continue=lambda written: True):
        self.started.set()
        assert self.let_go.wait(WAIT_S)
        self.questions.append(question)
        self.cut.append(not should_continue("x"))
        return InspectionReport(tokens=1, truncated=not should_continue("x"))

    def rest_s(self):
        return self.rests.pop() if self.rests else 0.0

    def close(self):
        self.closed.set()


class Worker:
    """A pipeline over integers, whose inspector may wait to be let go."""

    def __init__(self, patient=False, cameras=(CAMERA,), **options):
        self.published = []
        self.failures = []
        self.answer_failure = None
        self.answers = []
        self.inspector = Patient(patient)
        self.started, self.let_go = self.inspector.started, self.inspector.let_go
        self.pipeline = Pipeline(
            cameras, self._to_frame, self.inspector, self.published.append, self._hear_failure, **options
        )

    def _hear_failure(self, failed):
        self.failures.append(failed)
        if self.answer_failure is not None:
            raise self.answer_failure

    def _to_frame(self, number):
        if number < 0:
            raise FrameError(f"{number} is no picture")
        return FRAME

    def ask(self, message=None, question="", should_continue=lambda written: True, camera=CAMERA):
        self.pipeline.ask(
            Request(camera, message, question, should_continue, lambda *answer: self.answers.append(answer))
        )

    def wait_until(self, condition):
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s
            time.sleep(0.001)

    def offer_and_wait(self, number):
        self.pipeline.offer(CAMERA, number)
        self.wait_until(self._is_idle)

    def _is_idle(self):
        counters = self.pipeline.counters()
        return counters.received == counters.reported + counters.skipped + counters.dropped + counters.failed


def test_a_report_says_which_message_it_is_about():
    worker = Worker()
    worker.offer_and_wait(5)
    worker.offer_and_wait(6)
    assert [(inspected.index, inspected.message) for inspected in worker.published] == [(0, 5), (1, 6)]


def test_offering_never_waits_and_the_newest_wins():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    for number in (1, 2, 3):
        worker.pipeline.offer(CAMERA, number)
    worker.let_go.set()
    worker.offer_and_wait(4)
    messages = [inspected.message for inspected in worker.published]
    assert messages[0] == 0
    assert messages[-1] == 4
    assert worker.pipeline.counters().received == 5
    assert worker.pipeline.counters().dropped >= 2


def test_a_failed_frame_is_told_and_forgotten_at_the_next_success():
    worker = Worker()
    worker.offer_and_wait(-1)
    assert worker.failures == [Failed(0, CAMERA, -1, "-1 is no picture")]
    assert worker.pipeline.status().last_failure == "frame 0: -1 is no picture"
    worker.offer_and_wait(1)
    assert worker.pipeline.status().last_failure is None
    assert worker.pipeline.counters() == Counters(received=2, reported=1, dropped=0, failed=1)


def test_who_is_told_of_a_failure_may_fail_and_the_next_frame_is_inspected():
    worker = Worker()
    worker.answer_failure = ZeroDivisionError("no such topic")
    worker.offer_and_wait(-1)
    worker.offer_and_wait(1)
    assert [inspected.message for inspected in worker.published] == [1]
    assert worker.pipeline.counters() == Counters(received=2, reported=1, failed=1)


def test_stopping_finishes_the_frame_in_progress_and_drops_the_one_that_waits():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    worker.pipeline.offer(CAMERA, 1)
    threading.Timer(0.1, worker.let_go.set).start()
    worker.pipeline.stop(WAIT_S)
    assert [inspected.message for inspected in worker.published] == [0]
    assert worker.pipeline.counters() == Counters(received=2, reported=1, dropped=1, failed=0)


def test_an_inspection_that_does_not_end_is_an_error_at_stop():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    with pytest.raises(TimeoutError, match="did not end"):
        worker.pipeline.stop(timeout_s=0.05)
    worker.let_go.set()


def test_latency_is_measured_from_arrival_to_publication():
    worker = Worker()
    assert worker.pipeline.status().latency is None
    worker.offer_and_wait(0)
    assert worker.pipeline.status().latency.max_ms > 0


def test_frames_that_show_nothing_new_are_skipped_and_counted():
    worker = Worker(rules=lambda: Rules(GateRule(threshold=0.35, refresh_s=60)))
    for number in range(3):
        worker.offer_and_wait(number)
    assert worker.pipeline.counters() == Counters(received=3, reported=1, skipped=2)


def test_of_frames_that_come_sooner_than_the_rate_allows_the_newest_waits():
    rules = Rules(period_s=60)
    worker = Worker(rules=lambda: rules)
    worker.offer_and_wait(0)
    for number in (1, 2, 3):
        worker.pipeline.offer(CAMERA, number)
    assert worker.pipeline.counters() == Counters(received=4, reported=1, dropped=2)
    rules = Rules()
    worker.wait_until(lambda: len(worker.published) == 2)
    assert worker.published[-1].message == 3


def test_a_rate_is_shared_by_cameras_whose_frames_come_in_step():
    worker = Worker(cameras=("left", "right"), rules=lambda: Rules(period_s=0.05))
    for number in range(8):
        for camera in ("left", "right"):
            worker.pipeline.offer(camera, number)
        worker.wait_until(lambda: len(worker.published) > number)  # noqa: B023
    assert [inspected.camera for inspected in worker.published] == ["left", "right"] * 4


def test_rules_that_cannot_be_told_cost_frames_and_not_the_worker():
    def broken():
        raise ZeroDivisionError("no such rate")

    rules = broken
    worker = Worker(rules=lambda: rules())
    worker.wait_until(lambda: worker.pipeline.status().last_failure == "no such rate")
    rules = Rules
    worker.offer_and_wait(0)
    assert worker.pipeline.counters().reported == 1


def test_a_request_does_not_wait_for_the_rate():
    worker = Worker(rules=lambda: Rules(period_s=60))
    worker.offer_and_wait(0)
    worker.ask(message=7)
    worker.wait_until(lambda: worker.answers)


def test_rules_hold_from_the_next_frame_on():
    rules = Rules(question="is it rust?")
    worker = Worker(rules=lambda: rules)
    worker.offer_and_wait(0)
    rules = Rules(question="is it paint?", deadline_s=0.0)
    worker.offer_and_wait(1)
    assert worker.inspector.questions == ["is it rust?", "is it paint?"]
    assert [inspected.question for inspected in worker.published] == ["is it rust?", "is it paint?"]
    assert [inspected.report.truncated for inspected in worker.published] == [False, True]


def test_every_camera_has_its_own_slot_and_the_higher_priority_goes_first():
    worker = Worker(patient=True, cameras=("left", "right", "down"), priorities={"down": 1})
    worker.pipeline.offer("left", 0)
    assert worker.started.wait(WAIT_S)
    for number, camera in enumerate(("left", "right", "down"), start=1):
        worker.pipeline.offer(camera, number)
    worker.let_go.set()
    worker.wait_until(lambda: len(worker.published) == 4)
    assert [inspected.camera for inspected in worker.published] == ["left", "down", "right", "left"]


def test_a_request_goes_before_the_stream_and_is_not_counted_in_it():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    worker.pipeline.offer(CAMERA, 1)
    worker.ask(message=7, question="and this?")
    worker.let_go.set()
    worker.wait_until(lambda: len(worker.published) == 2)
    assert worker.inspector.questions == ["", "and this?", ""]
    assert worker.answers == [(7, InspectionReport(tokens=1), "")]
    assert worker.pipeline.counters() == Counters(received=2, reported=2)


def test_a_request_for_the_next_frame_waits_for_its_camera():
    worker = Worker(cameras=("left", "right"))
    worker.ask(camera="right")
    worker.pipeline.offer("left", 0)
    worker.pipeline.offer("right", 1)
    worker.wait_until(lambda: worker.answers)
    assert worker.answers[0][0] == 1


def test_a_request_whose_time_is_up_before_a_frame_comes_is_told_so():
    worker = Worker()
    worker.ask(should_continue=lambda written: False)
    worker.wait_until(lambda: worker.answers)
    assert worker.answers == [(None, None, "no frame came in time")]


def test_a_request_for_a_damaged_frame_is_told_what_is_wrong():
    worker = Worker()
    worker.ask(message=-1)
    worker.wait_until(lambda: worker.answers)
    assert worker.answers == [(-1, None, "-1 is no picture")]


def test_requests_that_wait_when_the_pipeline_stops_are_refused():
    worker = Worker()
    worker.ask()
    worker.pipeline.stop(WAIT_S)
    assert worker.answers == [(None, None, "the node is not active any more")]


@pytest.mark.parametrize(
    ("message", "reason"), [(None, "no frame came in time"), (7, "time was up before the frame could be looked at")]
)
def test_a_request_whose_time_is_up_while_the_pipeline_pauses_is_told_so(message, reason):
    worker = Worker()
    worker.inspector.rest_s = lambda: 0.01
    worker.ask(message=message, should_continue=lambda written: False)
    worker.wait_until(lambda: worker.answers)
    assert worker.answers == [(None, None, reason)]
    assert not worker.started.is_set()


def test_a_request_whose_time_is_up_when_its_turn_comes_is_not_looked_at():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    worker.ask(message=7, question="late", should_continue=lambda written: False)
    worker.let_go.set()
    worker.wait_until(lambda: worker.answers)
    assert worker.answers == [(None, None, "time was up before the frame could be looked at")]
    assert worker.inspector.questions == [""]


def test_a_pipeline_that_is_stopped_cuts_the_report_in_progress_where_it_is_told_to():
    for cut in (True, False):
        worker = Worker(patient=True)
        worker.pipeline.offer(CAMERA, 0)
        assert worker.started.wait(WAIT_S)
        with pytest.raises(TimeoutError):
            worker.pipeline.stop(timeout_s=0.0, cut=cut)
        worker.let_go.set()
        assert worker.inspector.closed.wait(WAIT_S)
        assert worker.inspector.cut == [cut]


def test_an_inspection_that_hangs_is_left_behind_as_failed_and_the_next_frame_inspected():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    assert worker.pipeline.status().busy_s > 0
    worker.pipeline.replace_worker(Patient(patient=False))
    assert worker.pipeline.counters() == Counters(received=1, failed=1)
    assert worker.failures == [Failed(0, CAMERA, 0, "the inspection did not end, and was left behind")]
    worker.offer_and_wait(1)
    worker.let_go.set()
    assert worker.inspector.closed.wait(WAIT_S)
    assert [inspected.message for inspected in worker.published] == [1]
    assert worker.pipeline.counters() == Counters(received=2, reported=1, failed=1)
    assert worker.pipeline.status().left_behind == 1


def test_an_inspector_that_was_left_at_stop_is_closed_when_it_ends():
    worker = Worker(patient=True)
    worker.pipeline.offer(CAMERA, 0)
    assert worker.started.wait(WAIT_S)
    with pytest.raises(TimeoutError):
        worker.pipeline.stop(timeout_s=0.01)
    worker.let_go.set()
    assert worker.inspector.closed.wait(WAIT_S)
    assert worker.published == []


def test_the_worker_rests_before_it_takes_a_frame_so_that_it_gets_the_newest():
    worker = Worker()
    worker.inspector.rests += [0.05] * 40
    worker.wait_until(lambda: len(worker.inspector.rests) < 39)  # it was idle, and rests now
    worker.pipeline.offer(CAMERA, 0)
    worker.pipeline.offer(CAMERA, 1)
    worker.inspector.rests.clear()
    worker.wait_until(lambda: worker.published)
    assert [inspected.message for inspected in worker.published] == [1]
    assert worker.pipeline.counters() == Counters(received=2, reported=1, dropped=1)


def test_memory_that_does_not_come_back_is_told_and_the_worker_lives_on():
    worker = Worker()
    worker.inspector.rests = Exhausted()
    worker.wait_until(lambda: worker.pipeline.status().last_failure == "memory has not come back")
    worker.inspector.rests = []
    worker.offer_and_wait(0)
    assert worker.pipeline.counters() == Counters(received=1, reported=1)
