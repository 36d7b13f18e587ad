"""Stand-ins that behave like the real thing on purpose, for tests that are about something else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_runtime.language.questions import Choice, Json, Reply, Text
from edge_runtime.memory.monitor import LevelChange
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.reports.report import Finding, InspectionReport, Region, Timings
from edge_runtime.reports.schema import BRIDGE
from edge_runtime.stream.sources import FrameSource, SourcedFrame
from edge_runtime.vision.resampling import check_frame

CRACK = Finding(
    defect_class="crack",
    severity="moderate",
    region=Region(0.2, 0.3, 0.6, 0.7),
    confidence=0.9,
    description="hairline crack across the joint",
    action="inspect closely",
)


class ScriptedInspector:
    """An inspector without a model: answers frame after frame from a script, over and over.

    An exception in the script is raised instead of returned. Frames are checked as the real one does. An answer is
    written token by token, ``token_delay_s`` each, and cut where it is told not to go on.
    """

    def __init__(
        self,
        script: Iterable[InspectionReport | Exception] = (
            InspectionReport(findings=(CRACK,), tokens=40, timings=Timings(1.0, 2.0, 3.0, 4.0, 10.0)),
            InspectionReport(tokens=4, timings=Timings(1.0, 2.0, 3.0, 1.0, 7.0)),
        ),
        delay_s: float = 0.0,
        token_delay_s: float = 0.0,
    ) -> None:
        self._script = itertools.cycle(script)
        self._delay_s = delay_s
        self._token_delay_s = token_delay_s
        self.questions: list[str] = []
        self.frame_shapes: list[tuple[int, ...]] = []
        self.closed = False
        self.memory_plan = MemoryPlan((MemoryPlanItem("weights", 1_000_000, 1_100_000),), budget_bytes=2_000_000)

    def inspect(
        self,
        frame: NDArray[np.uint8],
        question: str = "",
        should_continue: Callable[[str], bool] = lambda written: True,
    ) -> InspectionReport:
        """The next line of the script, after ``delay_s``."""
        if self.closed:
            raise RuntimeError("this inspector is closed")
        check_frame(frame)
        self.frame_shapes.append(frame.shape)
        self.questions.append(question)
        time.sleep(self._delay_s)
        step = next(self._script)
        if isinstance(step, Exception):
            raise step
        for written in range(step.tokens):
            if not should_continue("x" * written):
                return replace(step, findings=(), tokens=written, truncated=True)
            time.sleep(self._token_delay_s)
        return step

    def ask(
        self,
        frame: NDArray[np.uint8],
        question: str,
        answer: Text | Choice | Json,
        should_continue: Callable[[str], bool] = lambda written: True,
    ) -> Reply:
        """The question itself, word by word; the first choice is certain."""
        self.frame_shapes.append(frame.shape)
        self.questions.append(question)
        if isinstance(answer, Choice):
            shares = {choice: float(number == 0) for number, choice in enumerate(answer.choices)}
            return Reply(answer.choices[0], 0.0, False, choices=shares, tokens=2)
        words = question.split()
        for count in range(len(words)):
            if not should_continue(" ".join(words[:count])):
                return Reply(" ".join(words[:count]), -1.0, True, tokens=count)
            time.sleep(self._token_delay_s)
        return Reply(question, -1.0, False, tokens=len(words))

    def check_ask(self, question: str, answer: Text | Choice | Json) -> None:
        """As the real one, of a question that is empty."""
        if not question.strip():
            raise ValueError("the question is empty; ask something")

    def rest_s(self) -> float:
        """Nothing presses."""
        return 0.0

    def check_question(self, question: str) -> None:
        """As the real one, of a model that has room for 500 characters."""
        if len(question) > 500:
            raise ValueError(f"the question takes {len(question)} positions, of 500; ask in fewer words")

    level_changes: tuple[LevelChange, ...] = ()
    schema = BRIDGE

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> ScriptedInspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FakeCapture:
    """A camera behind ``cv2.VideoCapture``'s interface: gives ``frames`` frames, then nothing until opened again."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self.released = False

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self._frames -= 1
        if self._frames < 0:
            return False, None
        return True, np.full((4, 6, 3), self._frames, np.uint8)

    def release(self) -> None:
        self.released = True


class FakeCamera(FrameSource):
    """A live source of ``frames`` frames, one every ``period_s``; then it ends, or raises ``error``."""

    is_live = True

    def __init__(self, frames: int, period_s: float = 0.0, error: Exception | None = None) -> None:
        self._frames = frames
        self._period_s = period_s
        self._error = error
        self.closed = False

    def __iter__(self) -> Iterator[SourcedFrame]:
        for index in range(self._frames):
            time.sleep(self._period_s)
            yield SourcedFrame(np.full((4, 6, 3), index % 256, np.uint8), f"fake#{index}", float(index))
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed = True
