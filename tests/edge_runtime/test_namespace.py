"""What users import is there, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_runtime


@pytest.mark.parametrize("name", edge_runtime.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(edge_runtime, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        edge_runtime.nonsense  # noqa: B018


@pytest.mark.parametrize("module", ["edge_runtime", "edge_runtime.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print({{'cv2', 'numpy', 'onnxruntime', 'tokenizers'}} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.strip() == "set()"
