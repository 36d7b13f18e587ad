"""A source's frames through an inspector, one outcome a frame; prints nothing and writes no file.

A camera does not wait: its frames pass through the newest-wins slot, and those that come while the inspector is busy
are dropped and counted. Files do wait: every frame of a folder or video is inspected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import EdgeRuntimeError, FrameError, SourceError
from edge_runtime.frames import FrameSource, NewestSlot, SourcedFrame
from edge_runtime.report import InspectionReport

_SILENCE_S = 30.0  # longer than a camera takes to be opened again


class FrameInspector(Protocol):
    """What an inspector does, for those who only need that."""

    def inspect(self, frame: NDArray[np.uint8]) -> InspectionReport:
        """The report of one frame."""


@dataclass(frozen=True)
class Outcome:
    """One frame and its report, or why it has none; ``index`` counts received frames from 0."""

    index: int
    frame: SourcedFrame
    report: InspectionReport | None
    failure: str = ""


class Stream:
    """Iterates over outcomes, counting what came and what was lost; must be closed, which stops a camera's thread."""

    def __init__(self, inspector: FrameInspector, source: FrameSource) -> None:
        self._inspector = inspector
        self._source = source
        self._intake = _NewestIntake(source) if source.is_live else None
        self._taken = 0
        self._failed = 0

    @property
    def received(self) -> int:
        """Frames that the source delivered, damaged ones included."""
        return (self._intake.received if self._intake else self._taken) + self._source.skipped

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced."""
        return self._intake.dropped if self._intake else 0

    @property
    def failed(self) -> int:
        """Frames that were damaged or could not be inspected."""
        return self._failed + self._source.skipped

    def __iter__(self) -> Iterator[Outcome]:
        for index, frame in self._intake or enumerate(self._source):
            self._taken += 1
            yield self._inspect(index, frame)

    def close(self) -> None:
        """Stop receiving and close the source."""
        if self._intake:
            self._intake.stop()
        self._source.close()

    def _inspect(self, index: int, frame: SourcedFrame) -> Outcome:
        try:
            return Outcome(index, frame, self._inspector.inspect(frame.image))
        except FrameError as error:
            self._failed += 1
            return Outcome(index, frame, None, str(error))


class _NewestIntake:
    """A thread that reads a live source as fast as it delivers, and gives the newest frame to whoever asks."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._slot: NewestSlot[tuple[int, SourcedFrame]] = NewestSlot()
        self._stopping = threading.Event()
        self._error: EdgeRuntimeError | None = None
        self.received = 0
        self._thread = threading.Thread(target=self._read, name="intake", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._slot.dropped

    def __iter__(self) -> Iterator[tuple[int, SourcedFrame]]:
        while True:
            item = self._slot.take(timeout_s=_SILENCE_S)
            if item is not None:
                yield item
            elif self._error is not None:
                raise self._error
            elif self._thread.is_alive() and not self._stopping.is_set():
                raise SourceError(f"the source gave no frame for {_SILENCE_S:.0f} s; is the camera still there?")
            else:
                return

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _read(self) -> None:
        try:
            for frame in self._source:
                self._slot.put((self.received, frame))
                self.received += 1
                if self._stopping.is_set():
                    break
        except EdgeRuntimeError as error:
            self._error = error
        finally:
            self._slot.close()
