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
from typing import Generic

from edge_runtime.reports.report import InspectionReport
from edge_runtime.ros.messages import Frame
from edge_runtime.stream.camera_state import CameraState
from edge_runtime.stream.latest_frame_queue import LatestFrameQueue
from edge_runtime.stream.loop import Counters, within
from edge_runtime.stream.tiling import Tiling, inspect_in_tiles
from inspection_ros.frame_counters import FrameCounters
from inspection_ros.pipeline_types import ClosableInspector, Failed, Inspected, Message, Request, Rules, Status

_IDLE_WAIT_S = 0.5
_REQUESTS = "\n"  # a lane of the queue beside the cameras' topics, whose names hold no line ends
_FIRST = 2**31  # its priority, above every camera's
_BLAMELESS = (ValueError, MemoryError)  # of what is raised: the frame's fault, the question's or the machine's
_LEFT_BEHIND = "the inspection did not end, and was left behind"
_NO_FRAME = "no frame came in time"
_NOT_LOOKED_AT = "time was up before the frame could be looked at"


@dataclass(frozen=True)
class _Arrival(Generic[Message]):
    index: int
    camera: str
    message: Message
    arrived_s: float  # monotonic


@dataclass(frozen=True)
class _UnderWay(Generic[Message]):
    """An inspection in progress; no arrival where it was asked for, and its frame is none of the stream's."""

    began_s: float  # monotonic
    arrival: _Arrival[Message] | None = None


def look(
    inspector: ClosableInspector, frame: Frame, tiling: Tiling, question: str, should_continue: Callable[[str], bool]
) -> InspectionReport:
    """The report of a frame, in as many pieces as the tiling says."""
    return inspect_in_tiles(
        frame,
        tiling,
        lambda tile: inspector.inspect(tile, question, should_continue),
        should_continue=lambda: should_continue(""),
    )


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
        self._queue: LatestFrameQueue[_Arrival[Message] | None] = LatestFrameQueue(
            (*cameras, _REQUESTS), {**(priorities or {}), _REQUESTS: _FIRST}
        )
        self._counters = FrameCounters()
        self._stopping = threading.Event()
        self._cutting = threading.Event()  # the report in progress, too
        self._lock = threading.Lock()  # held for a moment: around the requests, and who works on what
        self._ready: deque[Request[Message]] = deque()
        self._awaiting: list[Request[Message]] = []  # their camera's next frame
        self._inspection_began_s = float("-inf")
        self._track_ids = itertools.count(1)
        self._shift = 0
        self._start_shift(inspector)

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
        self._queue.put(camera, _Arrival(index, camera, message, arrived_s))
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
        return self._counters.counters(self._dropped)

    def status(self) -> Status:
        """A snapshot for diagnostics."""
        under_way = self._under_way
        return self._counters.status(self._dropped, time.monotonic() - under_way.began_s if under_way else 0.0)

    def replace_worker(self, inspector: ClosableInspector) -> None:
        """Leave the inspection in progress behind, as failed, and go on with another inspector on another thread.

        Should the one that was left ever end, its result is thrown away and its inspector closed.
        """
        with self._lock:
            self._shift += 1
            under_way = self._under_way
        self._counters.leave_behind()
        self._start_shift(inspector)
        if under_way and under_way.arrival:
            self._fail(under_way.arrival, TimeoutError(_LEFT_BEHIND), by_engine=True)

    def stop(self, timeout_s: float, cut: bool = False) -> None:
        """Finish the frame in progress, drop those that wait, refuse what was asked, and end the thread.

        ``cut`` ends the report in progress after its last complete finding, as a deadline does.

        Raises:
            TimeoutError: the inspection did not end in time; it is left behind, and closes its inspector should it end.
        """
        if cut:
            self._cutting.set()
        self._stopping.set()
        self._queue.close()
        self._worker.join(timeout_s)
        self._refuse(lambda request: "the node is not active any more")
        if self._worker.is_alive():
            with self._lock:
                self._shift += 1  # left behind, with its inspector
            raise TimeoutError(f"the inspection in progress did not end within {timeout_s:.0f} s")

    @property
    def _dropped(self) -> int:
        return sum(map(self._queue.dropped, self._cameras))

    def _start_shift(self, inspector: ClosableInspector) -> None:
        self._under_way: _UnderWay[Message] | None = None
        self._camera_state = {camera: CameraState(self._track_ids) for camera in self._cameras}
        self._worker = threading.Thread(
            target=self._work, args=(self._shift, inspector), name="inspection", daemon=True
        )
        self._worker.start()

    def _work(self, shift: int, inspector: ClosableInspector) -> None:
        while shift == self._shift and not self._stopping.is_set():
            self._take_turn(shift, inspector)
        if shift != self._shift:
            inspector.close()

    def _take_turn(self, shift: int, inspector: ClosableInspector) -> None:
        too_soon_s = self._rest(inspector)
        if too_soon_s > 0:  # no camera has its turn, so that none loses it
            turn = self._queue.take(min(too_soon_s, _IDLE_WAIT_S), among=(_REQUESTS,))
        else:
            turn = self._queue.take(_IDLE_WAIT_S)
        try:
            if turn is not None and turn[1] is not None:
                self._process(shift, inspector, turn[1])
            if shift == self._shift:
                self._serve_requests(shift, inspector)
        except Exception as error:  # of those who are told; without this thread the node would only seem alive
            self._counters.worry(_words(error))

    def _rest(self, inspector: ClosableInspector) -> float:
        """Wait as long as memory or heat ask for, before a frame is taken that would be an old one afterwards.

        Returns the seconds for which the rate still allows none.
        """
        try:
            while (rest_s := inspector.rest_s()) > 0 and not self._stopping.wait(min(rest_s, _IDLE_WAIT_S)):
                self._refuse(lateness)
            return self._inspection_began_s + self._rules().period_s - time.monotonic()
        except Exception as error:  # memory does not come back; the frame itself will tell whether there is enough
            self._counters.worry(_words(error))
            self._stopping.wait(_IDLE_WAIT_S)
            return 0.0

    def _process(self, shift: int, inspector: ClosableInspector, arrival: _Arrival[Message]) -> None:
        rules = self._rules()
        began_s = time.monotonic()

        def inspect(frame: Frame) -> InspectionReport:
            self._inspection_began_s = began_s
            return look(inspector, frame, rules.tiling, rules.question, self._unless_cut(within(rules.deadline_s)))

        self._under_way = _UnderWay(began_s, arrival)
        try:
            frame = self._to_frame(arrival.message)
            report = self._camera_state[arrival.camera].inspect(frame, began_s, rules.gate, inspect)
        except Exception as error:  # whatever it is, the next frame deserves its chance
            if self._ended(shift):
                self._fail(arrival, error, by_engine=not isinstance(error, _BLAMELESS))
            return
        if not self._ended(shift):
            return
        if report is None:
            self._counters.skip()
            return
        try:
            self._publish(
                Inspected(
                    arrival.index, arrival.camera, arrival.message, frame, rules.question, report, self.counters()
                )
            )
        except Exception as error:  # of the topics
            self._fail(arrival, error, by_engine=False)
        else:
            self._counters.report(report, (time.monotonic() - arrival.arrived_s) * 1000)

    def _ended(self, shift: int) -> bool:
        """Note that the inspection in progress has ended; False where it had been left behind."""
        with self._lock:
            if shift != self._shift:
                return False
            self._under_way = None
            return True

    def _fail(self, arrival: _Arrival[Message], error: Exception, by_engine: bool) -> None:
        reason = _words(error)
        self._counters.fail(f"frame {arrival.index}: {reason}", by_engine)
        self._on_failure(Failed(arrival.index, arrival.camera, arrival.message, reason))

    def _serve_requests(self, shift: int, inspector: ClosableInspector) -> None:
        while (request := self._next_request(shift)) is not None:
            assert request.message is not None, "only those with a message are ready"
            self._under_way = _UnderWay(time.monotonic())
            report, failure = None, ""
            try:
                frame = self._to_frame(request.message)
                should_continue = self._unless_cut(request.should_continue)
                report = look(inspector, frame, self._rules().tiling, request.question, should_continue)
            except Exception as error:
                failure = _words(error)
            if self._ended(shift):
                request.done(request.message, report, failure)
            else:
                request.done(request.message, None, _LEFT_BEHIND)

    def _next_request(self, shift: int) -> Request[Message] | None:
        """The request to be served next, once those that are too late are refused."""
        self._refuse(lateness)
        with self._lock:
            if not self._ready or shift != self._shift or self._stopping.is_set():
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

    def _unless_cut(self, should_continue: Callable[[str], bool]) -> Callable[[str], bool]:
        return lambda written: should_continue(written) and not self._cutting.is_set()


def lateness(request: Request[Message]) -> str:
    """Why a request that waits need not be served any more; empty where it must be."""
    if request.should_continue(""):
        return ""
    return _NO_FRAME if request.message is None else _NOT_LOOKED_AT


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
