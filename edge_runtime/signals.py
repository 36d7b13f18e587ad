"""What may interrupt a command, and when: keeps Ctrl-C out of moments that would make something else of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDINGS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which systemd and docker end a process, do what Ctrl-C does in a ``with``."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the end of a ``with`` in which libraries load; SIGTERM too, where it does the same.

    Compiled ones make an ImportError of it, which says that they are broken or not installed. (Blocking the signal
    would not do: any thread of theirs may receive it.)
    """
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C interrupts the main thread only
        yield
        return
    came: list[int] = []
    held = [number for number in _ENDINGS if signal.getsignal(number) is signal.default_int_handler]
    for number in held:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, signal.default_int_handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def deaf_children() -> Iterator[None]:
    """What is started in a ``with`` never hears Ctrl-C, which a terminal sends to all; the parent ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
