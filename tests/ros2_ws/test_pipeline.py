"""Every frame that arrives is reported, dropped for a newer one, or failed: nothing else, and none of it silently."""

import threading
import time

import numpy as np
import pytest
from inspection_ros.pipeline import Counters, Pipeline

from edge_runtime.errors import FrameError
from edge_runtime.report import InspectionReport

WAIT_S = 10.0
FRAME = np.zeros((2, 2, 3), np.uint8)


class Worker:
    """A pipeline over integers, whose inspector waits to be let go."""

    def __init__(self, patient=False):
        self.published = []
        self.failures = []
        self.started = threading.Event()
        self.let_go = threading.Event()
        if not patient:
            self.let_go.set()
        self.pipeline = Pipeline(self._to_frame, self._inspect, self.published.append, self.failures.append)

    def _to_frame(self, number):
        if number < 0:
            raise FrameError(f"{number} is no picture")
        return FRAME

    def _inspect(self, frame):
        self.started.set()
        assert self.let_go.wait(WAIT_S)
        return InspectionReport(tokens=1)

    def offer_and_wait(self, number):
        self.pipeline.offer(number)
        deadline_s = time.monotonic() + WAIT_S
        while not self._is_idle():
            assert time.monotonic() < deadline_s
            time.sleep(0.001)

    def _is_idle(self):
        counters = self.pipeline.counters()
        return counters.received == counters.reported + counters.dropped + counters.failed


def test_a_report_says_which_message_it_is_about():
    worker = Worker()
    worker.offer_and_wait(5)
    worker.offer_and_wait(6)
    assert [(inspected.index, inspected.message) for inspected in worker.published] == [(0, 5), (1, 6)]


def test_offering_never_waits_and_the_newest_wins():
    worker = Worker(patient=True)
    worker.pipeline.offer(0)
    assert worker.started.wait(WAIT_S)
    for number in (1, 2, 3):
        worker.pipeline.offer(number)
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
    assert worker.failures == ["frame 0: -1 is no picture"]
    assert worker.pipeline.status().last_failure == "frame 0: -1 is no picture"
    worker.offer_and_wait(1)
    assert worker.pipeline.status().last_failure is None
    assert worker.pipeline.counters() == Counters(received=2, reported=1, dropped=0, failed=1)


def test_stopping_finishes_the_frame_in_progress_and_drops_the_one_that_waits():
    worker = Worker(patient=True)
    worker.pipeline.offer(0)
    assert worker.started.wait(WAIT_S)
    worker.pipeline.offer(1)
    threading.Timer(0.1, worker.let_go.set).start()
    worker.pipeline.stop(WAIT_S)
    assert [inspected.message for inspected in worker.published] == [0]
    assert worker.pipeline.counters() == Counters(received=2, reported=1, dropped=1, failed=0)


def test_an_inspection_that_does_not_end_is_an_error_at_stop():
    worker = Worker(patient=True)
    worker.pipeline.offer(0)
    assert worker.started.wait(WAIT_S)
    with pytest.raises(TimeoutError, match="did not end"):
        worker.pipeline.stop(timeout_s=0.05)
    worker.let_go.set()


def test_latency_is_measured_from_arrival_to_publication():
    worker = Worker()
    assert worker.pipeline.status().latency is None
    worker.offer_and_wait(0)
    assert worker.pipeline.status().latency.max_ms > 0
