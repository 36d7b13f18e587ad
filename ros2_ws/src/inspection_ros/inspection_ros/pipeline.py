"""One thread between a camera and its reports: newest message in, report out, every frame accounted for.

Knows neither ROS nor models: what makes a frame of a message, what inspects it and what publishes the result are
handed in. A frame that fails is counted and told about, and the next one is taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge_runtime.frames import NewestSlot
from edge_runtime.report import InspectionReport
from edge_runtime.telemetry import LatencyStatistics, LatencyWindow
from inspection_ros.convert import Frame

Message = TypeVar("Message")

_IDLE_WAIT_S = 0.5


@dataclass(frozen=True)
class Counters:
    """Frames since the start; received = reported + dropped + failed, and up to two that are not done yet."""

    received: int = 0
    reported: int = 0
    dropped: int = 0  # replaced by a newer frame before the inspector was free
    failed: int = 0  # could not be converted, inspected or published


@dataclass(frozen=True)
class Status:
    """How a pipeline is doing."""

    counters: Counters
    latency: LatencyStatistics | None  # from a message's arrival to its published report
    since_frame_s: float  # since the newest frame arrived, or since the start
    last_failure: str | None  # None once a frame succeeded again


@dataclass(frozen=True)
class Inspected(Generic[Message]):
    """A message, what it showed, and what was found in it."""

    index: int  # among the frames received, from 0
    message: Message
    frame: Frame
    report: InspectionReport
    counters: Counters  # as they stood when the report was done


@dataclass(frozen=True)
class _Arrival(Generic[Message]):
    index: int
    message: Message
    arrived_s: float  # monotonic


class Pipeline(Generic[Message]):
    """Starts its thread at once; :meth:`stop` ends it."""

    def __init__(
        self,
        to_frame: Callable[[Message], Frame],
        inspect: Callable[[Frame], InspectionReport],
        publish: Callable[[Inspected[Message]], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._to_frame = to_frame
        self._inspect = inspect
        self._publish = publish
        self._on_failure = on_failure
        self._slot: NewestSlot[_Arrival[Message]] = NewestSlot()
        self._stopping = threading.Event()
        # Each number has one writer: the camera's thread counts what it brings, the worker what it did with it.
        self._received = 0
        self._reported = 0
        self._failed = 0
        self._discarded = 0  # still waiting when the pipeline was stopped
        self._newest_frame_s = time.monotonic()
        self._latency = LatencyWindow()
        self._last_failure: str | None = None
        self._worker = threading.Thread(target=self._work, name="inspection", daemon=True)
        self._worker.start()

    def offer(self, message: Message) -> None:
        """Hand over the newest message, in place of one that still waits; never blocks."""
        arrived_s = time.monotonic()
        self._newest_frame_s = arrived_s
        self._received += 1
        self._slot.put(_Arrival(self._received - 1, message, arrived_s))

    def counters(self) -> Counters:
        """What became of the frames so far."""
        return Counters(self._received, self._reported, self._slot.dropped + self._discarded, self._failed)

    def status(self) -> Status:
        """A snapshot for diagnostics."""
        since_frame_s = time.monotonic() - self._newest_frame_s
        return Status(self.counters(), self._latency.statistics(), since_frame_s, self._last_failure)

    def stop(self, timeout_s: float) -> None:
        """Finish the frame in progress, drop the one that waits, and end the thread.

        Raises:
            TimeoutError: the inspection did not end in time; its thread still holds the inspector.
        """
        self._stopping.set()
        self._slot.close()
        self._worker.join(timeout_s)
        if self._worker.is_alive():
            raise TimeoutError(f"the inspection in progress did not end within {timeout_s:.0f} s")

    def _work(self) -> None:
        while True:
            arrival = self._slot.take(_IDLE_WAIT_S)
            if arrival is None and self._stopping.is_set():
                return
            if arrival is not None and self._stopping.is_set():
                self._discarded += 1
            elif arrival is not None:
                self._process(arrival)

    def _process(self, arrival: _Arrival[Message]) -> None:
        try:
            frame = self._to_frame(arrival.message)
            report = self._inspect(frame)
            self._publish(Inspected(arrival.index, arrival.message, frame, report, self.counters()))
        except Exception as error:  # whatever it is, the next frame deserves its chance
            self._failed += 1
            self._last_failure = f"frame {arrival.index}: {error}"
            self._on_failure(self._last_failure)
        else:
            self._reported += 1
            self._last_failure = None
            self._latency.add((time.monotonic() - arrival.arrived_s) * 1000)
