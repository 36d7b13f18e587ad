"""How Hypothesis runs everywhere, and a real bundle of random weights, built once a session for whoever asks.

Hypothesis tries the same examples each time, and has no clock, which on a busy machine fails anything.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from engines.cli import main as build_command
from tests.manifests import edit

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

# A shell that starts something in the background makes it deaf to Ctrl-C, and all that it starts; tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def build_tiny(out: Path, recipe: str) -> Path:
    code = build_command(
        ["build", "synthetic:tiny-llava", "--recipe", recipe, "--target", "onnxruntime", "--out", str(out)]
    )
    assert code == 0
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``synthetic:tiny-llava`` in float16; read-only."""
    return build_tiny(tmp_path_factory.mktemp("bundles") / "tiny", "fp16")


@pytest.fixture(scope="session")
def tiny_int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``synthetic:tiny-llava`` in 4 bits, embedding included; read-only."""
    return build_tiny(tmp_path_factory.mktemp("bundles") / "tiny-int4", "uniform-int4")


@pytest.fixture(scope="session")
def roomy_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_bundle`` with 4096 positions, as models have that read long prompts; read-only."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "roomy")
    model = json.loads((path / "bundle.json").read_text())["model"]
    edit(path, model={**model, "max_positions": 4096})
    return path


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")
