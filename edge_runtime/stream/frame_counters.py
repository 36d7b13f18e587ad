"""What became of frames, and how long it took: counts and durations; decides nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.memory.telemetry import LatencyStatistics, LatencyWindow
from edge_runtime.reports.report import InspectionReport

_ANSWERS = 32  # the speed is that of so many


@dataclass(frozen=True)
class Counters:
    """Frames since the start; received = reported + skipped + dropped + failed, and those that are under way."""

    received: int = 0
    reported: int = 0
    skipped: int = 0  # by rule: they showed nothing new
    dropped: int = 0  # replaced by a newer frame before the inspector was free
    failed: int = 0  # damaged, or could not be inspected


@dataclass(frozen=True)
class Status:
    """How a loop over frames is doing."""

    counters: Counters
    latency: LatencyStatistics | None  # from a frame's arrival to its published report
    since_frame_s: float  # since the newest frame arrived, or since the start
    last_failure: str | None  # None once a frame succeeded again
    first_token: LatencyStatistics | None = None  # from the start of an inspection to what the model says first
    handover: LatencyStatistics | None = None  # how long a camera's callback took
    tokens_per_s: float | None = None  # while it writes, over the latest reports
    busy_s: float = 0.0  # for how long the inspection in progress has been going on
    left_behind: int = 0  # inspections that were left behind
    engine_failures: int = 0  # since the last report


class FrameCounters:
    """Any thread may tell it, and any may ask. ``dropped`` asks the queue, which drops frames and counts them."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped
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

    @property
    def engine_failures(self) -> int:
        """How often the engine has failed since the last report."""
        return self._engine_failures

    def counters(self) -> Counters:
        """What became of the frames so far."""
        dropped = self._dropped()
        with self._lock:
            return Counters(self._received, self._reported, self._skipped, dropped, self._failed)

    def status(self, busy_s: float) -> Status:
        """A snapshot for diagnostics; the inspection in progress has been going on for ``busy_s``."""
        answers = tuple(self._pace)
        written_ms = sum(duration_ms for _, duration_ms in answers)
        return Status(
            self.counters(),
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
