"""Between cameras and one worker: each camera's newest frame, and whose turn it is; starts no thread."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestFrameQueue(Generic[T]):
    """A newest-wins slot a camera, served by turns.

    Of the cameras that have something new, the one of the highest priority is served; among equals, the one that has
    waited longest since it was served last. So a camera of low priority is served when those above it have nothing new,
    and equals get equal shares whatever their rates. Any thread may put or take.
    """

    def __init__(self, cameras: Sequence[str], priorities: Mapping[str, int] | None = None) -> None:
        self._changed = threading.Condition()
        self._newest: dict[str, T] = {}
        self._served = dict.fromkeys(cameras, 0)  # the turn in which each was served last
        self._priorities = dict.fromkeys(cameras, 0) | dict(priorities or {})
        self._turn = 0
        self._closed = False
        self._dropped = dict.fromkeys(cameras, 0)

    def dropped(self, camera: str) -> int:
        """Items of ``camera`` that a newer one replaced, or that came or waited when this was closed."""
        return self._dropped[camera]

    def put(self, camera: str, item: T) -> None:
        """Replace what waits of ``camera``; never blocks. After :meth:`close` the item is dropped."""
        with self._changed:
            if camera in self._newest or self._closed:
                self._dropped[camera] += 1
            if not self._closed:
                self._newest[camera] = item
                self._changed.notify()

    def take(self, timeout_s: float, among: Collection[str] | None = None) -> tuple[str, T] | None:
        """The camera whose turn it is, of all or ``among`` some, and its newest item.

        None after ``timeout_s``, or when closed.
        """

        def waiting() -> list[str]:
            return [name for name in self._newest if among is None or name in among]

        with self._changed:
            self._changed.wait_for(lambda: waiting() or self._closed, timeout_s)
            if not waiting():
                return None
            camera = min(waiting(), key=lambda name: (-self._priorities[name], self._served[name]))
            self._turn += 1
            self._served[camera] = self._turn
            return camera, self._newest.pop(camera)

    def close(self) -> None:
        """Drop what waits, refuse what comes, and wake whoever takes."""
        with self._changed:
            self._closed = True
            for camera in self._newest:
                self._dropped[camera] += 1
            self._newest.clear()
            self._changed.notify_all()
