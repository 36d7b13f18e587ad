"""Frames through an inspector, one at a time, each accounted for: the loop of the command line and of the ROS node.

Knows neither ROS nor models, and starts no thread: who has frames hands them in, as whatever they came as, with what
makes a picture of that. A frame that fails is an outcome, as a report is.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.language.questions import Choice, Json, Reply, Text
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.camera_state import CameraState
from edge_runtime.stream.change_gate import GateRule
from edge_runtime.stream.frame_counters import Counters, FrameCounters
from edge_runtime.stream.tiling import Tiling, inspect_in_tiles

Frame = NDArray[np.uint8]  # (H, W, 3), BGR
Message = TypeVar("Message")  # what a frame comes as

LEFT_BEHIND = "the inspection did not end, and was left behind"
_BLAMELESS = (ValueError, MemoryError)  # of what is raised: the frame's fault, the question's or the machine's


class FrameInspector(Protocol):
    """What an inspector does, for those who only need that."""

    def inspect(
        self, frame: Frame, question: str = "", should_continue: Callable[[str], bool] = ...
    ) -> InspectionReport:
        """The report of one frame; see :meth:`edge_runtime.inspector.Inspector.inspect`."""

    def ask(
        self, frame: Frame, question: str, answer: Text | Choice | Json, should_continue: Callable[[str], bool] = ...
    ) -> Reply:
        """The answer to a question about one frame; see :meth:`edge_runtime.inspector.Inspector.ask`."""

    def rest_s(self) -> float:
        """How long the next frame should wait; see :meth:`edge_runtime.inspector.Inspector.rest_s`."""


@dataclass(frozen=True)
class Rules:
    """How frames are chosen and asked about; may change from one frame to the next."""

    gate: GateRule = field(default_factory=GateRule)
    tiling: Tiling = field(default_factory=Tiling)
    question: str = ""
    deadline_s: float | None = None  # from the moment that an inspection starts
    period_s: float = 0.0  # no frame is taken sooner after the start of the last inspection; the newest waits


def within(deadline_s: float | None) -> Callable[[str], bool]:
    """What an inspector is asked to go on by, until ``deadline_s`` from now has passed; None sets no deadline."""
    if deadline_s is None:
        return lambda written: True
    ends_s = time.monotonic() + deadline_s
    return lambda written: time.monotonic() < ends_s


@dataclass(frozen=True)
class Arrival(Generic[Message]):
    """A frame that was received, as it came."""

    index: int  # among the frames received, from 0
    camera: str
    message: Message
    arrived_s: float  # monotonic


@dataclass(frozen=True)
class Inspected(Generic[Message]):
    """A message, what it showed, and what was found in it."""

    index: int  # among the frames received, from 0
    camera: str
    message: Message
    frame: Frame
    question: str
    report: InspectionReport
    counters: Counters  # as they stood when the report was done


@dataclass(frozen=True)
class Failed(Generic[Message]):
    """A message of which there will be no report, and why."""

    index: int  # among the frames received, from 0
    camera: str
    message: Message
    reason: str
    error: Exception | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _UnderWay(Generic[Message]):
    """An inspection in progress; no arrival where it was asked for, and its frame is none of the stream's."""

    began_s: float  # monotonic
    arrival: Arrival[Message] | None = None


class FrameLoop(Generic[Message]):
    """Which frames are inspected, how, and what became of each; for one thread, and any may cut or leave it.

    ``to_frame`` decodes a message, and ``rules`` is asked before every frame. Of each of ``cameras``, frames that show
    what its last one showed are skipped, and defects followed, if ``is_tracked``, by numbers out of ``ids``.
    ``counters`` may be shared with the loop that takes over.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        to_frame: Callable[[Message], Frame],
        inspector: FrameInspector,
        counters: FrameCounters,
        rules: Callable[[], Rules] = Rules,
        ids: Iterator[int] | None = None,
        is_tracked: bool = True,
    ) -> None:
        ids = itertools.count(1) if ids is None else ids
        self._camera_states = {camera: CameraState(ids, is_tracked) for camera in cameras}
        self._to_frame = to_frame
        self._inspector = inspector
        self._counters = counters
        self._rules = rules
        self._inspection_began_s = float("-inf")
        self._lock = threading.Lock()  # held for a moment: around who has the inspection in progress
        self._under_way: _UnderWay[Message] | None = None
        self._is_left = False
        self._is_cut = False

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for this loop any more."""
        return self._is_left

    @property
    def busy_s(self) -> float:
        """For how long the inspection in progress has been going on; 0 where there is none."""
        under_way = self._under_way
        return time.monotonic() - under_way.began_s if under_way else 0.0

    def rest(self, pause: Callable[[float], object]) -> None:
        """Wait while memory or heat ask for it; before a frame is taken, as it would be an old one afterwards.

        ``pause`` waits for so many seconds at most, and returns what is true where nobody wants to wait any longer.
        What the inspector raises passes through.
        """
        while (rest_s := self._inspector.rest_s()) > 0:
            if pause(rest_s):
                return

    def too_soon_s(self) -> float:
        """For how many seconds the rules' rate allows no frame; 0 or less where it allows one."""
        return self._inspection_began_s + self._rules().period_s - time.monotonic()

    def process(
        self,
        arrival: Arrival[Message],
        publish: Callable[[Inspected[Message]], None] = lambda inspected: None,
        now_s: float | None = None,
    ) -> Inspected[Message] | Failed[Message] | None:
        """Inspect a frame, and count it; None where the rules skip it, or this loop was left meanwhile.

        ``now_s`` is the frame's time in seconds from anywhere, by which its camera is followed; the present if None.
        A frame whose report ``publish`` cannot tell of has failed.
        """
        began_s = time.monotonic()
        if not self._begin(_UnderWay(began_s, arrival)):
            return self._fail(arrival, TimeoutError(LEFT_BEHIND), by_engine=False)
        try:
            rules = self._rules()

            def inspect(frame: Frame) -> InspectionReport:
                self._inspection_began_s = began_s
                return self._look(frame, rules.tiling, rules.question, within(rules.deadline_s))

            frame = self._to_frame(arrival.message)
            state = self._camera_states[arrival.camera]
            report = state.inspect(frame, began_s if now_s is None else now_s, rules.gate, inspect)
        except Exception as error:  # whatever it is, the next frame deserves its chance
            return self._fail(arrival, error, by_engine=not isinstance(error, _BLAMELESS)) if self._end() else None
        if not self._end():
            return None
        if report is None:
            self._counters.skip()
            return None
        inspected = Inspected(
            arrival.index, arrival.camera, arrival.message, frame, rules.question, report, self._counters.counters()
        )
        try:
            publish(inspected)
        except Exception as error:  # of the topics
            return self._fail(arrival, error, by_engine=False)
        self._counters.report(report, (time.monotonic() - arrival.arrived_s) * 1000)
        return inspected

    def answer(
        self,
        message: Message,
        question: str,
        should_continue: Callable[[str], bool],
        form: Text | Choice | Json | None = None,
    ) -> tuple[InspectionReport | Reply | None, str]:
        """The report of a frame that somebody asked about, or why there is none; not counted.

        Where ``form`` says in which form, the question is put alone, and the result is its reply.
        """
        if not self._begin(_UnderWay(time.monotonic())):
            return None, LEFT_BEHIND
        result: InspectionReport | Reply | None = None
        failure = ""
        try:
            frame = self._to_frame(message)
            if form is None:
                result = self._look(frame, self._rules().tiling, question, should_continue)
            else:
                result = self._inspector.ask(frame, question, form, self._unless_cut(should_continue))
        except Exception as error:
            failure = words(error)
        return (result, failure) if self._end() else (None, LEFT_BEHIND)

    def cut(self) -> None:
        """End the report in progress after its last complete finding, as a deadline does, and those that follow."""
        self._is_cut = True

    def leave(self) -> Failed[Message] | None:
        """Give the inspection in progress up; its frame has failed, and what it may still say is thrown away."""
        with self._lock:
            self._is_left = True
            under_way, self._under_way = self._under_way, None
        if under_way is None or under_way.arrival is None:
            return None
        return self._fail(under_way.arrival, TimeoutError(LEFT_BEHIND), by_engine=True)

    def _look(
        self, frame: Frame, tiling: Tiling, question: str, should_continue: Callable[[str], bool]
    ) -> InspectionReport:
        unless_cut = self._unless_cut(should_continue)
        return inspect_in_tiles(
            frame,
            tiling,
            lambda tile: self._inspector.inspect(tile, question, unless_cut),
            should_continue=lambda: unless_cut(""),
        )

    def _unless_cut(self, should_continue: Callable[[str], bool]) -> Callable[[str], bool]:
        return lambda written: should_continue(written) and not self._is_cut

    def _begin(self, inspection: _UnderWay[Message]) -> bool:
        """Note that an inspection begins; False where nobody waits for it any more."""
        with self._lock:
            if not self._is_left:
                self._under_way = inspection
            return not self._is_left

    def _end(self) -> bool:
        """Note that the inspection in progress has ended; False where it had been left behind."""
        with self._lock:
            self._under_way = None
            return not self._is_left

    def _fail(self, arrival: Arrival[Message], error: Exception, by_engine: bool) -> Failed[Message]:
        reason = words(error)
        self._counters.fail(f"frame {arrival.index}: {reason}", by_engine)
        return Failed(arrival.index, arrival.camera, arrival.message, reason, error)


def words(error: Exception) -> str:
    """What is wrong; its kind where it says nothing."""
    return str(error) or type(error).__name__
