"""Ctrl-C ends every command, whatever it is busy with, with one line and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

RUNTIME, ENGINES = "edge_runtime.cli", "engines.cli"
COMMANDS = {
    "inspect": [RUNTIME, "inspect", "BUNDLE", *["PHOTO"] * 5000],
    "stream": [RUNTIME, "stream", "BUNDLE", "FOLDER"],
    "bench": [RUNTIME, "bench", "BUNDLE", "--frames", "100000"],
    "doctor": [RUNTIME, "doctor", "BUNDLE"],
    "plan": [ENGINES, "plan", "synthetic:llava-1.5-13b"],
    "build": [ENGINES, "build", "synthetic:llava-1.5-13b", "--out", "OUT"],
    "verify": [ENGINES, "verify", "BUNDLE"],
    "calibrate": [ENGINES, "calibrate", "synthetic:tiny-llava", "--out", "OUT"],
    "sensitivity": [ENGINES, "sensitivity", "synthetic:tiny-llava", "--out", "OUT"],
    "evaluate": ["engines.reference.evaluate", "BUNDLE"],
}


@pytest.fixture
def places(tiny_bundle: Path, tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in range(50):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((40, 60, 3), name, np.uint8))
    bundle, photo, out = tiny_bundle, folder / "0.png", tmp_path / "bundle"
    return {"BUNDLE": str(bundle), "PHOTO": str(photo), "FOLDER": str(folder), "OUT": str(out)}


def start(command: list[str], places: dict[str, str]) -> subprocess.Popen[str]:
    words = [places.get(word, word) for word in command]
    root = Path(__file__).parents[1]
    to_us = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=root, start_new_session=True, **to_us)


def wait_for_library(process: subprocess.Popen[str], library: str) -> None:
    """Return when ``process`` has begun to load ``library``."""
    maps = Path(f"/proc/{process.pid}/maps")
    deadline_s = time.monotonic() + 60
    while library not in maps.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def last_line_after_ctrl_c(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the children too
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    lines = complaints.splitlines()
    if "stream" in process.args and lines[0].startswith("edge-runtime: frames: "):
        lines = lines[1:]  # the flight had begun, and says what became of its frames
    (line,) = lines
    return line  # and no child goes on: it would hold stderr open


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_still_starting(name: str, places: dict[str, str]) -> None:
    process = start(COMMANDS[name], places)
    wait_for_library(process, "numpy")
    assert ": interrupted" in last_line_after_ctrl_c(process)


@pytest.mark.parametrize("name", ["inspect", "stream", "bench", "doctor", "verify", "evaluate"])
def test_a_command_whose_engine_is_loading(name: str, places: dict[str, str]) -> None:
    process = start(COMMANDS[name], places)
    wait_for_library(process, "onnxruntime")
    assert last_line_after_ctrl_c(process).endswith(": interrupted")


@pytest.mark.parametrize("name", ["inspect", "bench", "build", "evaluate"])
@pytest.mark.parametrize("later_s", [0.0, 1.0])
def test_a_command_at_work(name: str, later_s: float, places: dict[str, str]) -> None:
    process = start(COMMANDS[name], places)
    wait_for_library(process, "ml_dtypes" if name == "build" else "llguidance")
    time.sleep(later_s)
    assert ": interrupted" in last_line_after_ctrl_c(process)
    assert not Path(places["OUT"]).exists()
