"""One thread between cameras and their reports: newest message in, report out, every frame accounted for.

Knows neither ROS nor models: what makes a frame of a message, what inspects it and what publishes the result are
handed in. A frame that fails is told about, and the next one is taken. An inspection that never ends is left behind
with its inspector (:meth:`Pipeline.replace_worker`), as no thread can be ended from outside.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from edge_runtime.language.questions import Choice, Json, Reply, Text
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.frame_counters import Counters, FrameCounters, Status
from edge_runtime.stream.latest_frame_queue import LatestFrameQueue
from edge_runtime.stream.loop import (
    Arrival,
    Failed,
    Frame,
    FrameInspector,
    FrameLoop,
    Inspected,
    Message,
    Rules,
    words,
)

_IDLE_WAIT_S = 0.5
_REQUESTS = "\n"  # a lane of the queue beside the cameras' topics, whose names hold no line ends
_FIRST = 2**31  # its priority, above every camera's
_NO_FRAME = "no frame came in time"
_NOT_LOOKED_AT = "time was up before the frame could be looked at"


class ClosableInspector(FrameInspector, Protocol):
    """What the pipeline needs of an inspector."""

    def close(self) -> None:
        """Free every byte."""


@dataclass(eq=False)
class Request(Generic[Message]):
    """A frame to be inspected on demand: ``message``, or the camera's next one where that is None.

    Where ``answer`` says in which form, the question is put alone, and the result is its reply and no report.

    ``should_continue`` is asked before each token of the answer, and now and then while no frame comes. ``done`` gets
    the message with its report or reply, or the reason why there is none; on the worker's thread. ``began`` says that
    its frame is being looked at, or was.
    """

    camera: str
    message: Message | None
    question: str
    should_continue: Callable[[str], bool]
    done: Callable[[Message | None, InspectionReport | Reply | None, str], None]
    began: bool = False
    answer: Text | Choice | Json | None = None


class Pipeline(Generic[Message]):
    """Starts its thread at once; :meth:`stop` ends it. The inspector is the caller's to close, unless it is left.

    ``rules`` is asked before every frame. ``publish`` and ``on_failure`` are called by the worker; ``on_failure`` also
    by who calls :meth:`replace_worker`.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        to_frame: Callable[[Message], Frame],
        inspector: ClosableInspector,
        publish: Callable[[Inspected[Message]], None],
        on_failure: Callable[[Failed[Message]], None],
        rules: Callable[[], Rules] = Rules,
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        self._cameras = tuple(cameras)
        self._to_frame = to_frame
        self._publish = publish
        self._on_failure = on_failure
        self._rules = rules
        self._queue: LatestFrameQueue[Arrival[Message] | None] = LatestFrameQueue(
            (*cameras, _REQUESTS), {**(priorities or {}), _REQUESTS: _FIRST}
        )
        self._counters = FrameCounters(dropped=lambda: sum(map(self._queue.dropped, self._cameras)))
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # held for a moment: around the requests
        self._ready: deque[Request[Message]] = deque()
        self._awaiting: list[Request[Message]] = []  # their camera's next frame
        self._track_ids = itertools.count(1)
        self._start_worker(inspector)

    def offer(self, camera: str, message: Message) -> None:
        """Hand over the camera's newest message, in place of one that still waits; never blocks."""
        arrived_s = time.monotonic()
        index = self._counters.receive(arrived_s)
        with self._lock:
            asked = [request for request in self._awaiting if request.camera == camera]
            for request in asked:
                self._awaiting.remove(request)
                request.message = message
            self._ready.extend(asked)
        self._queue.put(camera, Arrival(index, camera, message, arrived_s))
        if asked:
            self._queue.put(_REQUESTS, None)
        self._counters.hand_over((time.monotonic() - arrived_s) * 1000)

    def ask(self, request: Request[Message]) -> None:
        """Have a frame inspected before those that wait."""
        with self._lock:
            (self._awaiting if request.message is None else self._ready).append(request)
        self._queue.put(_REQUESTS, None)

    def counters(self) -> Counters:
        """What became of the frames so far."""
        return self._counters.counters()

    def status(self) -> Status:
        """A snapshot for diagnostics."""
        return self._counters.status(self._loop.busy_s)

    def replace_worker(self, inspector: ClosableInspector) -> None:
        """Leave the inspection in progress behind, as failed, and go on with another inspector on another thread.

        Should the one that was left ever end, its result is thrown away and its inspector closed.
        """
        failed = self._loop.leave()
        self._counters.leave_behind()
        self._start_worker(inspector)
        if failed:
            self._on_failure(failed)

    def stop(self, timeout_s: float, cut: bool = False) -> None:
        """Finish the frame in progress, drop those that wait, refuse what was asked, and end the thread.

        ``cut`` ends the report in progress after its last complete finding, as a deadline does.

        Raises:
            TimeoutError: the inspection did not end in time; it is left behind, and closes its inspector should it end.
        """
        if cut:
            self._loop.cut()
        self._stopping.set()
        self._queue.close()
        self._worker.join(timeout_s)
        self._refuse(lambda request: "the node is not active any more")
        if self._worker.is_alive():
            self._loop.leave()  # with its inspector
            raise TimeoutError(f"the inspection in progress did not end within {timeout_s:.0f} s")

    def _start_worker(self, inspector: ClosableInspector) -> None:
        self._loop = FrameLoop(
            self._cameras, self._to_frame, inspector, self._counters, self._rules, ids=self._track_ids
        )
        self._worker = threading.Thread(target=self._work, args=(self._loop, inspector), name="inspection", daemon=True)
        self._worker.start()

    def _work(self, loop: FrameLoop[Message], inspector: ClosableInspector) -> None:
        while not loop.is_left and not self._stopping.is_set():
            self._take_turn(loop)
        if loop.is_left:
            inspector.close()

    def _take_turn(self, loop: FrameLoop[Message]) -> None:
        too_soon_s = self._rest(loop)
        if too_soon_s > 0:  # no camera has its turn, so that none loses it
            turn = self._queue.take(min(too_soon_s, _IDLE_WAIT_S), among=(_REQUESTS,))
        else:
            turn = self._queue.take(_IDLE_WAIT_S)
        try:
            if turn is not None and turn[1] is not None:
                outcome = loop.process(turn[1], self._publish)
                if isinstance(outcome, Failed):
                    self._on_failure(outcome)
            self._serve_requests(loop)
        except Exception as error:  # of those who are told; without this thread the node would only seem alive
            self._counters.worry(words(error))

    def _rest(self, loop: FrameLoop[Message]) -> float:
        """Wait as long as memory or heat ask for; the seconds for which the rate still allows no frame."""
        try:
            loop.rest(self._pause)
            return loop.too_soon_s()
        except Exception as error:  # memory does not come back; the frame itself will tell whether there is enough
            self._counters.worry(words(error))
            self._stopping.wait(_IDLE_WAIT_S)
            return 0.0

    def _pause(self, wait_s: float) -> bool:
        if not self._stopping.wait(min(wait_s, _IDLE_WAIT_S)):
            self._refuse(lateness)
        return self._stopping.is_set()

    def _serve_requests(self, loop: FrameLoop[Message]) -> None:
        while (request := self._next_request(loop)) is not None:
            assert request.message is not None, "only those with a message are ready"
            result = loop.answer(request.message, request.question, request.should_continue, request.answer)
            request.done(request.message, *result)

    def _next_request(self, loop: FrameLoop[Message]) -> Request[Message] | None:
        """The request to be served next, once those that are too late are refused."""
        self._refuse(lateness)
        with self._lock:
            if not self._ready or loop.is_left or self._stopping.is_set():
                return None
            request = self._ready.popleft()
            request.began = True
            return request

    def _refuse(self, why: Callable[[Request[Message]], str]) -> None:
        """Answer those that wait, and of which ``why`` gives a reason, with that."""
        with self._lock:
            refused = [(request, reason) for request in (*self._awaiting, *self._ready) if (reason := why(request))]
            gone = [request for request, _ in refused]
            self._awaiting = [request for request in self._awaiting if request not in gone]
            self._ready = deque(request for request in self._ready if request not in gone)
        for request, reason in refused:
            request.done(None, None, reason)


def lateness(request: Request[Message]) -> str:
    """Why a request that waits need not be served any more; empty where it must be."""
    if request.should_continue(""):
        return ""
    return _NO_FRAME if request.message is None else _NOT_LOOKED_AT
