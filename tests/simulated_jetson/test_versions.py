"""The runtime's half works with what TensorRT was called before and after the version that all other tests use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.bindings import VERSIONS

pytestmark = pytest.mark.simulated_jetson

OTHERS = [version for version in VERSIONS if not version.startswith("10.3.")]


@pytest.mark.parametrize("version", [OTHERS[-3], OTHERS[-1]])
def test_the_backend_runs_on_other_versions(version: str) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "simulated_jetson", Path(__file__).with_name("test_backend.py")]
    environment = {**os.environ, "SIMULATED_TENSORRT": version}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout
