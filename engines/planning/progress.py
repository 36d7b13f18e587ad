"""How far long work has come: a bar on a terminal, and elsewhere a line every ten seconds; knows no work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from edge_runtime.progress import saying, share_and_time_left

_INTERVAL_S = 10.0


@dataclass
class Progress:
    """Bytes of steps, of which those that are done are known, and of the one under way how much is there."""

    what: str
    total_bytes: int
    growing_bytes: Callable[[str], int] = lambda step: 0  # what is there of a step that is under way
    clock: Callable[[], float] = time.monotonic
    bar: Any = None  # tqdm's, on a terminal
    step: str = ""
    done_bytes: int = 0
    begun_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun_s = self.clock()

    def begin(self, step: str) -> None:
        """The next step is under way."""
        self.step = step
        if self.bar is not None:
            self.bar.set_postfix_str(step)

    def advance(self, size_bytes: int) -> None:
        """The step is done."""
        self.step, self.done_bytes = "", self.done_bytes + size_bytes
        if self.bar is not None:
            self.bar.update(size_bytes)

    def leave_out(self, size_bytes: int) -> None:
        """The step had been done before, which tells nothing of the others' time."""
        self.total_bytes -= size_bytes
        if self.bar is not None:
            self.bar.total = self.total_bytes

    def line(self) -> str:
        """Share done, the step under way, and the time left at the pace so far."""
        there = self.done_bytes + (self.growing_bytes(self.step) if self.step else 0)
        share = min(there / self.total_bytes, 1.0) if self.total_bytes > 0 else 1.0
        told = share_and_time_left(share, self.clock() - self.begun_s)
        return f"{self.what}: {told}{self.step and f' ({self.step})'}"


@contextmanager
def open_progress(
    what: str,
    total_bytes: int,
    growing_bytes: Callable[[str], int],
    stream: TextIO | None = None,
    interval_s: float = _INTERVAL_S,
) -> Iterator[Progress]:
    """Show on ``stream`` (stderr) how far the work has come, for as long as the context is open."""
    stream = stream or sys.stderr
    if stream.isatty():
        with tqdm(total=total_bytes, unit="B", unit_scale=True, desc=what, file=stream) as bar:
            yield Progress(what, total_bytes, growing_bytes, bar=bar)
        return
    progress = Progress(what, total_bytes, growing_bytes)
    with saying(progress.line, stream, interval_s):
        yield progress
