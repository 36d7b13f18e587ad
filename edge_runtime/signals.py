"""What may interrupt a command, and when: keeps Ctrl-C out of moments that would make something else of it.

SIGTERM, by which systemd and docker end a process, and SIGHUP, by which a terminal or ssh that goes away does, are made
to do what Ctrl-C does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP)
_ENDINGS = (signal.SIGINT, *_FROM_OUTSIDE)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does in a ``with``; a SIGHUP that is ignored, as under nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    heard = [number for number in _FROM_OUTSIDE if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the end of a ``with`` in which libraries load or a flight's last words are written.

    So do SIGTERM and SIGHUP, where they do the same. Compiled libraries make an ImportError of it, which says that they
    are broken or not installed. (Blocking the signal would not do: any thread of theirs may receive it.)
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
