"""What became of a camera's frames, and how long it took: counts and durations; decides nothing and knows no ROS."""

from __future__ import annotations

import threading
import time
from collections import deque

from edge_runtime.memory.telemetry import LatencyWindow
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.loop import Counters
from inspection_ros.pipeline_types import Status

_ANSWERS = 32  # the speed is that of so many


class FrameCounters:
    """Any thread may tell it, and any may ask. What was dropped is counted by the queue, which drops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._reported = self._skipped = self._failed = self._left_behind = 0
        self._engine_failures = 0
        self._newest_frame_s = time.monotonic()
        self._latency, self._first_token, self._handover = LatencyWindow(), LatencyWindow(), LatencyWindow()
        self._pace: deque[tuple[int, float]] = deque(maxlen=_ANSWERS)  # tokens and milliseconds of the latest
        self._last_failure: str | None = None

    def receive(self, arrived_s: float) -> int:
        """Count a frame that arrived; its index."""
        with self._lock:
            self._newest_frame_s = arrived_s
            self._received += 1
            return self._received - 1

    def hand_over(self, duration_ms: float) -> None:
        """Note how long a camera's callback took."""
        self._handover.add(duration_ms)

    def skip(self) -> None:
        """Count a frame that a rule skipped."""
        with self._lock:
            self._skipped += 1

    def report(self, report: InspectionReport, latency_ms: float) -> None:
        """Count a frame whose report was published so long after its arrival."""
        with self._lock:
            self._reported += 1
            self._engine_failures = 0
            self._last_failure = None
        timings = report.timings
        self._latency.add(latency_ms)
        self._first_token.add(timings.preprocess_ms + timings.vision_ms + timings.prefill_ms)
        self._pace.append((report.tokens, timings.decode_ms))

    def fail(self, what: str, by_engine: bool) -> None:
        """Count a frame that failed, and remember ``what`` until a frame succeeds."""
        with self._lock:
            self._failed += 1
            self._engine_failures += by_engine
            self._last_failure = what

    def worry(self, what: str) -> None:
        """Remember what kept frames from being taken, until a frame succeeds."""
        self._last_failure = what

    def leave_behind(self) -> None:
        """Count an inspection that was left behind."""
        with self._lock:
            self._left_behind += 1

    def counters(self, dropped: int) -> Counters:
        """What became of the frames so far; ``dropped`` as it was just before."""
        with self._lock:
            return Counters(self._received, self._reported, self._skipped, dropped, self._failed)

    def status(self, dropped: int, busy_s: float) -> Status:
        """A snapshot for diagnostics; the inspection in progress has been going on for ``busy_s``."""
        answers = tuple(self._pace)
        written_ms = sum(duration_ms for _, duration_ms in answers)
        return Status(
            self.counters(dropped),
            self._latency.statistics(),
            since_frame_s=time.monotonic() - self._newest_frame_s,
            last_failure=self._last_failure,
            first_token=self._first_token.statistics(),
            handover=self._handover.statistics(),
            tokens_per_s=1000 * sum(tokens for tokens, _ in answers) / written_ms if written_ms else None,
            busy_s=busy_s,
            left_behind=self._left_behind,
            engine_failures=self._engine_failures,
        )
