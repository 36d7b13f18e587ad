"""A source's frames through an inspector, one outcome a frame; prints nothing and writes no file.

A camera does not wait: its frames pass through a newest-wins queue, and those that come while the inspector is busy
are dropped and counted. Files do wait: every frame of a folder or video is inspected, or skipped by the rule.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.errors import BackendError, EdgeRuntimeError, FrameError, SourceError
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.frame_counters import Counters, FrameCounters
from edge_runtime.stream.latest_frame_queue import LatestFrameQueue
from edge_runtime.stream.loop import Arrival, Failed, FrameInspector, FrameLoop, Rules
from edge_runtime.stream.sources import FrameSource, SourcedFrame

_FRAMES, _END = "frames", "end"  # lanes of a live source's queue
_SILENCE_S = 30.0  # longer than a camera takes to be opened again
_UNTIMED_S = 1.0  # by which frames without a time count as apart, so that one in a few is inspected whatever it shows
_FAILURES_IN_A_ROW = 3  # of the engine: one is a frame's fault, so many are its own


@dataclass(frozen=True)
class Outcome:
    """One frame and its report, or why it has none; ``index`` counts received frames from 0, skipped ones included."""

    index: int
    frame: SourcedFrame
    report: InspectionReport | None
    failure: str = ""


class SourceStream:
    """Iterates over outcomes, counting what came and what was lost; must be closed, which stops a camera's thread.

    Frames that ``rules`` skip are counted, and have no outcome. A frame at which the engine fails is an outcome;
    :class:`BackendError` comes where it fails again and again. Defects are followed from frame to frame, but in
    pictures that need not show the same: there, only where ``is_tracked``.
    """

    def __init__(
        self,
        inspector: FrameInspector,
        source: FrameSource,
        rules: Rules = Rules(),  # noqa: B008  frozen
        is_tracked: bool = False,
    ) -> None:
        self._source = source
        self._counters = FrameCounters(dropped=lambda: self._intake.dropped if self._intake else 0)
        self._loop: FrameLoop[SourcedFrame] = FrameLoop(
            (_FRAMES,),
            lambda frame: frame.image,
            inspector,
            self._counters,
            lambda: rules,
            is_tracked=is_tracked or source.is_continuous,
        )
        self._now_s = -_UNTIMED_S
        self._intake: _NewestIntake | None = None
        if source.is_live:
            self._intake = _NewestIntake(source, self._counters)

    @property
    def counters(self) -> Counters:
        """What became of the frames so far."""
        return self._counters.counters()

    def __iter__(self) -> Iterator[Outcome]:
        arrivals = iter(self._intake or self._arrivals())
        while True:
            self._loop.rest(time.sleep)
            arrival = next(arrivals, None)
            if arrival is None:
                return
            outcome = self._process(arrival)
            if outcome is not None:
                yield outcome

    def close(self) -> None:
        """Stop receiving and close the source."""
        if self._intake:
            self._intake.stop()
        self._source.close()

    def _arrivals(self) -> Iterator[Arrival[SourcedFrame]]:
        for frame in self._source:
            yield _arrival(frame, self._counters)

    def _process(self, arrival: Arrival[SourcedFrame]) -> Outcome | None:
        frame = arrival.message
        if self._source.is_live:
            self._now_s = time.monotonic()
        else:  # a file is read faster than it was filmed
            self._now_s = self._now_s + _UNTIMED_S if frame.stamp_s is None else frame.stamp_s
        outcome = self._loop.process(arrival, now_s=self._now_s)
        if outcome is None:
            return None
        if not isinstance(outcome, Failed):
            return Outcome(outcome.index, frame, outcome.report)
        if outcome.error is not None and (
            not isinstance(outcome.error, (FrameError, BackendError))  # which the next frame would meet as well
            or self._counters.engine_failures >= _FAILURES_IN_A_ROW
        ):
            raise outcome.error
        return Outcome(outcome.index, frame, None, outcome.reason)


def _arrival(frame: SourcedFrame, counters: FrameCounters) -> Arrival[SourcedFrame]:
    arrived_s = time.monotonic()
    return Arrival(counters.receive(arrived_s), _FRAMES, frame, arrived_s)


class _NewestIntake:
    """A thread that reads a live source as fast as it delivers, and gives the newest frame to whoever asks.

    The end of the source, or the error that ended it, waits in a lane of its own until the last frame was taken.
    """

    def __init__(self, source: FrameSource, counters: FrameCounters) -> None:
        self._source = source
        self._counters = counters
        self._queue: LatestFrameQueue[Arrival[SourcedFrame] | EdgeRuntimeError | None] = LatestFrameQueue(
            (_FRAMES, _END), {_END: -1}
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="queue", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._queue.dropped(_FRAMES)

    def __iter__(self) -> Iterator[Arrival[SourcedFrame]]:
        while (turn := self._queue.take(_SILENCE_S)) is not None:
            _, item = turn
            if item is None:
                return
            if isinstance(item, EdgeRuntimeError):
                raise item
            yield item
        raise SourceError(f"the source gave no frame for {_SILENCE_S:.0f} s; is the camera still there?")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _read(self) -> None:
        ended_by: EdgeRuntimeError | None = None
        try:
            for frame in self._source:
                self._queue.put(_FRAMES, _arrival(frame, self._counters))
                if self._stopping.is_set():
                    break
        except EdgeRuntimeError as error:
            ended_by = error
        except Exception as error:  # of whatever library reads the source
            ended_by = SourceError(f"the source failed: {type(error).__name__}: {error}")
            ended_by.__cause__ = error
        finally:
            self._queue.put(_END, ended_by)
