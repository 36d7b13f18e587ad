"""A source's frames through an inspector, one outcome a frame; prints nothing and writes no file.

A camera does not wait: its frames pass through a newest-wins queue, and those that come while the inspector is busy
are dropped and counted. Files do wait: every frame of a folder or video is inspected, or skipped by the rule.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError, EdgeRuntimeError, FrameError, SourceError
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.camera_state import CameraState
from edge_runtime.stream.change_gate import GateRule
from edge_runtime.stream.latest_frame_queue import LatestFrameQueue
from edge_runtime.stream.sources import FrameSource, SourcedFrame

_FRAMES, _END = "frames", "end"  # lanes of a live source's queue
_SILENCE_S = 30.0  # longer than a camera takes to be opened again
_UNTIMED_S = 1.0  # by which frames without a time count as apart, so that one in a few is inspected whatever it shows
_FAILURES_IN_A_ROW = 3  # of the engine: one is a frame's fault, so many are its own


class FrameInspector(Protocol):
    """What an inspector does, for those who only need that."""

    def inspect(
        self, frame: NDArray[np.uint8], question: str = "", should_continue: Callable[[str], bool] = ...
    ) -> InspectionReport:
        """The report of one frame; see :meth:`edge_runtime.inspector.Inspector.inspect`."""

    def rest_s(self) -> float:
        """How long the next frame should wait; see :meth:`edge_runtime.inspector.Inspector.rest_s`."""


@dataclass(frozen=True)
class Counters:
    """Frames since the start; received = reported + skipped + dropped + failed, and those that are under way."""

    received: int = 0
    reported: int = 0
    skipped: int = 0  # by rule: they showed nothing new
    dropped: int = 0  # replaced by a newer frame before the inspector was free
    failed: int = 0  # damaged, or could not be inspected


def within(deadline_s: float | None) -> Callable[[str], bool]:
    """What an inspector is asked to go on by, until ``deadline_s`` from now has passed; None sets no deadline."""
    if deadline_s is None:
        return lambda written: True
    ends_s = time.monotonic() + deadline_s
    return lambda written: time.monotonic() < ends_s


@dataclass(frozen=True)
class Outcome:
    """One frame and its report, or why it has none; ``index`` counts received frames from 0, skipped ones included."""

    index: int
    frame: SourcedFrame
    report: InspectionReport | None
    failure: str = ""


class Stream:
    """Iterates over outcomes, counting what came and what was lost; must be closed, which stops a camera's thread.

    Frames that ``rule`` skips are counted, and have no outcome. A report that takes longer than ``deadline_s`` is cut.
    A frame at which the engine fails is an outcome; :class:`BackendError` comes where it fails again and again. Defects
    are followed from frame to frame, but in pictures that need not show the same: there, only where ``is_tracked``.
    """

    def __init__(
        self,
        inspector: FrameInspector,
        source: FrameSource,
        rule: GateRule = GateRule(),  # noqa: B008  frozen
        deadline_s: float | None = None,
        is_tracked: bool = False,
    ) -> None:
        self._inspector = inspector
        self._source = source
        self._rule = rule
        self._deadline_s = deadline_s
        self._camera_state = CameraState(itertools.count(1), is_tracked or source.is_continuous)
        self._now_s = -_UNTIMED_S
        self._queue = _NewestIntake(source) if source.is_live else None
        self._taken = 0
        self._reported = 0
        self._skipped = 0
        self._failed = 0
        self._failures_in_a_row = 0

    @property
    def counters(self) -> Counters:
        """What became of the frames so far."""
        return Counters(
            received=self._queue.received if self._queue else self._taken,
            reported=self._reported,
            skipped=self._skipped,
            dropped=self._queue.dropped if self._queue else 0,
            failed=self._failed,
        )

    def __iter__(self) -> Iterator[Outcome]:
        frames = iter(self._queue or enumerate(self._source))
        while True:
            while (wait_s := self._inspector.rest_s()) > 0:  # before the frame is taken, or it would be an old one
                time.sleep(wait_s)
            item = next(frames, None)
            if item is None:
                return
            self._taken += 1
            outcome = self._inspect(*item)
            if outcome is not None:
                yield outcome

    def close(self) -> None:
        """Stop receiving and close the source."""
        if self._queue:
            self._queue.stop()
        self._source.close()

    def _inspect(self, index: int, frame: SourcedFrame) -> Outcome | None:
        if self._source.is_live:
            self._now_s = time.monotonic()
        else:  # a file is read faster than it was filmed
            self._now_s = self._now_s + _UNTIMED_S if frame.stamp_s is None else frame.stamp_s
        try:
            report = self._camera_state.inspect(frame.image, self._now_s, self._rule, self._report)
        except (FrameError, BackendError) as error:
            self._failed += 1
            self._failures_in_a_row += isinstance(error, BackendError)
            if self._failures_in_a_row == _FAILURES_IN_A_ROW:
                raise
            return Outcome(index, frame, None, str(error))
        self._failures_in_a_row = 0
        if report is None:
            self._skipped += 1
            return None
        self._reported += 1
        return Outcome(index, frame, report)

    def _report(self, image: NDArray[np.uint8]) -> InspectionReport:
        return self._inspector.inspect(image, should_continue=within(self._deadline_s))


class _NewestIntake:
    """A thread that reads a live source as fast as it delivers, and gives the newest frame to whoever asks.

    The end of the source, or the error that ended it, waits in a lane of its own until the last frame was taken.
    """

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._queue: LatestFrameQueue[tuple[int, SourcedFrame] | EdgeRuntimeError | None] = LatestFrameQueue(
            (_FRAMES, _END), {_END: -1}
        )
        self._stopping = threading.Event()
        self.received = 0
        self._thread = threading.Thread(target=self._read, name="queue", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._queue.dropped(_FRAMES)

    def __iter__(self) -> Iterator[tuple[int, SourcedFrame]]:
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
                self._queue.put(_FRAMES, (self.received, frame))
                self.received += 1
                if self._stopping.is_set():
                    break
        except EdgeRuntimeError as error:
            ended_by = error
        except Exception as error:  # of whatever library reads the source
            ended_by = SourceError(f"the source failed: {type(error).__name__}: {error}")
            ended_by.__cause__ = error
        finally:
            self._queue.put(_END, ended_by)
