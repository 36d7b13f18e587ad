"""Finds TensorRT, or TensorRT for RTX, for who builds or runs engines; knows nothing that either does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edge_runtime.errors import MissingDependencyError
from edge_runtime.signals import holding_interrupts

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}  # by target


def load_library(target: str) -> Any:
    """The TensorRT that builds and runs the engines of ``target``.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
    """
    try:
        with holding_interrupts():
            return import_module(_MODULES[target])
    except (ImportError, OSError) as error:  # OSError: the library behind it is not there
        remedy = {
            "tensorrt": "on a Jetson it comes with JetPack: sudo apt install nvidia-jetpack, and a virtual environment "
            "made with --system-site-packages; --target onnxruntime needs neither",
            "tensorrt-rtx": "pip install '.[tensorrt-rtx]' in a checkout (x86-64 only)",
        }[target]
        raise MissingDependencyError(f"{_MODULES[target]} is not installed ({error}); {remedy}") from error
