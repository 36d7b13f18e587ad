"""How far long work has come: told by whoever does it, and said on stderr every ten seconds where somebody wants it.

Work that takes long calls :func:`begin` and :func:`advance`, which do nothing unless the same thread is inside of
:func:`telling`. Knows no work.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TextIO

_INTERVAL_S = 10.0


@dataclass
class Progress:
    """A task and the step of it that is under way, of which so much is done of so much, in whatever unit."""

    what: str
    clock: Callable[[], float] = time.monotonic
    _step: tuple[str, float, float] = field(init=False)  # name, all of it, and when it began
    _done: float = 0.0

    def __post_init__(self) -> None:
        self.begin("starting", 0.0)

    def begin(self, step: str, total: float) -> None:
        """The next step is under way; a ``total`` of 0 is one that is not known."""
        self._done = 0.0
        self._step = step, total, self.clock()

    def advance(self, amount: float) -> None:
        """So much more of the step is done."""
        self._done += amount

    def line(self) -> str:
        """The step under way, its share done, and its time left at the pace so far."""
        step, total, begun_s = self._step
        elapsed_s = self.clock() - begun_s
        told = (
            share_and_time_left(min(self._done / total, 1.0), elapsed_s) if total else f"{_duration(elapsed_s)} so far"
        )
        return f"{self.what}: {step}, {told}"


_told: ContextVar[Progress | None] = ContextVar("progress", default=None)


def begin(step: str, total: float) -> None:
    """Tell that ``step`` of the task begins, and how much it is, in any unit; 0 where that is not known."""
    if (progress := _told.get()) is not None:
        progress.begin(step, total)


def advance(amount: float) -> None:
    """Tell that so much more of the step is done."""
    if (progress := _told.get()) is not None:
        progress.advance(amount)


@contextmanager
def telling(what: str, stream: TextIO | None = None, interval_s: float = _INTERVAL_S) -> Iterator[None]:
    """Say on ``stream`` (stderr) every ``interval_s`` how far the task has come, for as long as the context is open."""
    progress = Progress(what)
    with told_to(progress), saying(progress.line, stream or sys.stderr, interval_s):
        yield


@contextmanager
def told_to(progress: Progress) -> Iterator[None]:
    """Have what this thread does told to ``progress``, for as long as the context is open."""
    token = _told.set(progress)
    try:
        yield
    finally:
        _told.reset(token)


@contextmanager
def saying(line: Callable[[], str], stream: TextIO, interval_s: float = _INTERVAL_S) -> Iterator[None]:
    """Print what ``line`` gives on ``stream`` every ``interval_s``, on a thread, for as long as the context is open."""
    finished = threading.Event()

    def tell() -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed: the work goes on
            while not finished.wait(interval_s):
                print(line(), file=stream, flush=True)

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        finished.set()
        teller.join()


def share_and_time_left(share: float, elapsed_s: float) -> str:
    """How far work has come after so long, of which ``share`` (0 to 1) is done: ``25% done after 30 s, ...``."""
    if share <= 0:
        return f"0% done after {_duration(elapsed_s)}, time left not known yet"
    return f"{share:.0%} done after {_duration(elapsed_s)}, about {_duration(elapsed_s * (1 - share) / share)} left"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
