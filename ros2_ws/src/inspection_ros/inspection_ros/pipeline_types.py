"""What goes into the pipeline and comes out of it: rules, requests, results, and how it is doing; does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from edge_runtime.memory.telemetry import LatencyStatistics
from edge_runtime.reports.report import InspectionReport
from edge_runtime.ros.messages import Frame
from edge_runtime.stream.change_gate import GateRule
from edge_runtime.stream.loop import Counters
from edge_runtime.stream.tiling import Tiling

Message = TypeVar("Message")


class ClosableInspector(Protocol):
    """What the pipeline needs of an inspector."""

    def inspect(
        self, frame: Frame, question: str = ..., should_continue: Callable[[str], bool] = ...
    ) -> InspectionReport:
        """The report of one frame; see :meth:`edge_runtime.inspector.Inspector.inspect`."""

    def rest_s(self) -> float:
        """How long the next frame had better wait; see :meth:`edge_runtime.inspector.Inspector.rest_s`."""

    def close(self) -> None:
        """Free every byte."""


@dataclass(frozen=True)
class Rules:
    """How frames are chosen and asked about; may change from one frame to the next."""

    gate: GateRule = field(default_factory=GateRule)
    tiling: Tiling = field(default_factory=Tiling)
    question: str = ""
    deadline_s: float | None = None  # from the moment that an inspection starts
    period_s: float = 0.0  # no frame is taken sooner after the start of the last inspection; the newest waits


@dataclass(frozen=True)
class Status:
    """How a pipeline is doing."""

    counters: Counters
    latency: LatencyStatistics | None  # from a message's arrival to its published report
    since_frame_s: float  # since the newest frame arrived, or since the start
    last_failure: str | None  # None once a frame succeeded again
    first_token: LatencyStatistics | None = None  # from the start of an inspection to what the model says first
    handover: LatencyStatistics | None = None  # how long a camera's callback took
    tokens_per_s: float | None = None  # while it writes, over the latest reports
    busy_s: float = 0.0  # for how long the inspection in progress has been going on
    left_behind: int = 0  # inspections that were left behind
    engine_failures: int = 0  # since the last report


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


@dataclass(eq=False)
class Request(Generic[Message]):
    """A frame to be inspected on demand: ``message``, or the camera's next one where that is None.

    ``should_continue`` is asked before each token of the answer, and now and then while no frame comes. ``done`` gets
    the message with its report, or the reason why there is none; on the worker's thread. ``began`` says that its frame
    is being looked at, or was.
    """

    camera: str
    message: Message | None
    question: str
    should_continue: Callable[[str], bool]
    done: Callable[[Message | None, InspectionReport | None, str], None]
    began: bool = False
