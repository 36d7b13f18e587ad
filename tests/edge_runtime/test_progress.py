"""Long work says how far it is, by itself, to whoever asked for it and to nobody else."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np

from edge_runtime import progress
from edge_runtime.cli import doctor
from edge_runtime.inspector import Inspector
from edge_runtime.progress import Progress, telling, told_to


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Listener(io.StringIO):
    """A stream that is no terminal, and tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        self.heard.set()
        return written


class Recorded(Progress):
    """Keeps how much of each step was told, and how much there was."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []
        self.names: list[str] = []
        super().__init__("recorded")

    def begin(self, step: str, total: float) -> None:
        super().begin(step, total)
        self.names.append(step.partition(",")[0])
        self.steps.append([0.0, total])

    def advance(self, amount: float) -> None:
        super().advance(amount)
        self.steps[-1][0] += amount


def test_a_line_tells_the_step_its_share_and_its_time_left() -> None:
    clock = Clock()
    told = Progress("inspecting a.jpg", clock)
    told.begin("reading the prompt", 600)
    told.advance(150)
    clock.now_s = 30.0
    assert told.line() == "inspecting a.jpg: reading the prompt, 25% done after 30 s, about 2 min left"


def test_of_a_step_whose_length_is_not_known_the_time_is_told() -> None:
    clock = Clock()
    told = Progress("verifying b", clock)
    told.begin("looking", 0)
    clock.now_s = 90.0
    assert told.line() == "verifying b: looking, 2 min so far"


def test_lines_come_by_themselves_while_the_work_goes_on_and_no_longer() -> None:
    stream = Listener()
    with telling("work", stream, interval_s=0.001):
        assert stream.heard.wait(60)
    written = stream.getvalue()
    progress.begin("other work", 1)
    assert stream.getvalue() == written
    assert written.startswith("work: starting, 0 s so far\n")


def test_work_of_another_thread_is_not_told() -> None:
    recorded = Recorded()
    with told_to(recorded):
        other = threading.Thread(target=progress.begin, args=("elsewhere", 1))
        other.start()
        other.join()
    assert recorded.names == ["starting"]


def test_opening_a_bundle_and_inspecting_a_frame_tell_every_step_to_its_end(tiny_bundle: Path) -> None:
    recorded = Recorded()
    with told_to(recorded), Inspector.open(tiny_bundle, max_report_tokens=40) as inspector:
        inspector.inspect(np.full((64, 64, 3), 128, np.uint8))
    assert recorded.names == [
        "starting",
        "comparing its files with their hashes",
        "loading its engines",
        "encoding the image",
        "reading the prompt",
        "writing the answer",
    ]
    for done, total in recorded.steps[3:5]:
        assert done == total > 0


def test_the_doctor_tells_what_it_does_with_a_bundle(tiny_bundle: Path) -> None:
    recorded = Recorded()
    with told_to(recorded):
        doctor.examine(tiny_bundle)
    assert "comparing its files with their hashes" in recorded.names
    assert "writing the answer" in recorded.names
