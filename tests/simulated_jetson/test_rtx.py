"""A ground station with a GeForce RTX: the same code, by TensorRT for RTX, which builds for GPUs that are elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conformance.bindings import RTX

pytestmark = pytest.mark.simulated_jetson


def run(module: str, *arguments: str | Path, capability: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).with_name("rtx")), os.environ["PYTHONPATH"]])
    simulated = {"SIMULATED_TENSORRT": RTX, "SIMULATED_COMPUTE_CAPABILITY": capability}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path, **simulated},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_one_bundle_runs_on_every_gpu_that_it_was_built_for_and_on_no_other(tmp_path: Path) -> None:
    bundle, photo = tmp_path / "bundle", tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((48, 64, 3), np.uint8))
    command = ["build", "synthetic:tiny-llava", "--target", "tensorrt-rtx", "--out", bundle]
    built = run("engines.cli", *command, capability="8.7")  # whatever is here
    assert built.returncode == 0, built.stderr

    for capability in ("8.6", "12.0"):
        done = run("edge_runtime.cli", "inspect", bundle, photo, "--json", capability=capability)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["report"]["findings"] == []

    done = run("edge_runtime.cli", "inspect", bundle, photo, capability="8.7")
    assert done.returncode == 1
    assert "built for GPUs of compute capability 8.6,8.9,12.0, and this Orin (simulated) has 8.7" in done.stderr
