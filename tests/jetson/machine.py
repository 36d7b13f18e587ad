"""The machine under test, and what is built on it once for all tests."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path
from threading import Event, Thread

from edge_runtime.backends.tensorrt.cuda import Device
from edge_runtime.memory.telemetry import read_memory
from engines.cli import main as build_command

CHECKPOINT = Path(__file__).parents[2] / "engines" / "reference" / "checkpoint"


@cache
def is_simulated() -> bool:
    """Whether this is ``tests/simulated_jetson``."""
    with closing(Device()) as device:
        return "simulated" in device.name


def build(folder: Path, recipe: str, target: str, *options: str) -> Path:
    """The reference inspector at that recipe, built once a folder."""
    out = folder / "-".join((recipe, target, *(option.strip("-") for option in options)))
    if not out.exists():
        calibrated = ["--images", f"rendered:{4 if is_simulated() else 512}"] if "int8" in recipe else []
        timing = ["--timing-cache", str(folder / "timing")] if target == "tensorrt" else []
        command = ["build", str(CHECKPOINT), "--recipe", recipe, "--target", target, "--out", str(out)]
        assert build_command([*command, *options, *calibrated, *timing]) == 0
    return out


class MemoryWatch:
    """Within its ``with`` block, how low the machine's available memory went; of all processes, so leave it alone."""

    def __enter__(self) -> MemoryWatch:
        self._stop = Event()
        self.before_bytes = self.lowest_bytes = read_memory().available_bytes
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def taken_bytes(self) -> int:
        """At the worst moment."""
        return self.before_bytes - self.lowest_bytes

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.lowest_bytes = min(self.lowest_bytes, read_memory().available_bytes)
