"""Which of the messages heard lately belongs to a frame: the one whose stamp is nearest; knows no ROS."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from edge_runtime.ros.messages import nanoseconds

Message = TypeVar("Message")  # anything with a header

_KEPT = 512  # 5 s of an autopilot's poses at 100 Hz: longer than a report takes
NEAR_S = 1.0  # what was stamped further off says nothing of where the frame was taken


class StampedBuffer(Generic[Message]):
    """The latest messages of one topic; any thread may hear or ask."""

    def __init__(self) -> None:
        self._heard: deque[tuple[int, Message]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self.off_s: float | None = None  # from the stamp asked for last to the nearest one heard

    def hear(self, message: Message) -> None:
        """Keep a message; the oldest is forgotten."""
        with self._lock:
            self._heard.append((nanoseconds(message.header.stamp), message))  # type: ignore[attr-defined]

    @property
    def is_used(self) -> bool:
        """Whether anything was heard."""
        return bool(self._heard)

    def at(self, stamp_ns: int) -> list[Message]:
        """The message nearest to the stamp, where one is near; a list, as a bounded field of a message is."""
        with self._lock:
            nearest = min(self._heard, key=lambda heard: abs(heard[0] - stamp_ns), default=None)
        self.off_s = None if nearest is None else abs(nearest[0] - stamp_ns) / 1e9
        return [nearest[1]] if nearest is not None and self.off_s is not None and self.off_s <= NEAR_S else []
