"""Keeps Ctrl-C out of moments that would make something else of it; handles none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the end of a ``with`` in which libraries load.

    Compiled ones make an ImportError of it, which says that they are broken or not installed. (Blocking the signal
    would not do: any thread of theirs may receive it.)
    """
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C interrupts the main thread only
        yield
        return
    came = False

    def remember(*_: object) -> None:
        nonlocal came
        came = True

    handler = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def deaf_children() -> Iterator[None]:
    """What is started in a ``with`` never hears Ctrl-C, which a terminal sends to all; the parent ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
