"""Finds TensorRT, or TensorRT for RTX, and says which version it is; the only file here that imports either."""

from __future__ import annotations

import re
from typing import Any

from edge_runtime.errors import MissingDependencyError

_OLDEST = (10, 0)  # the first to take 4-bit weights


def load_tensorrt() -> Any:
    """The module ``tensorrt``.

    Raises:
        MissingDependencyError: it is not installed, does not load, or is too old.
    """
    try:
        import tensorrt as trt
    except ImportError as error:
        raise MissingDependencyError(
            f"TensorRT is not installed ({error}); on a Jetson it comes with JetPack: sudo apt install "
            "nvidia-jetpack, and a virtual environment made with --system-site-packages; elsewhere see "
            "https://docs.nvidia.com/deeplearning/tensorrt; without it, --target onnxruntime runs on any machine"
        ) from error
    if version_of(trt) < _OLDEST:
        raise MissingDependencyError(
            f"TensorRT {trt.__version__} is installed, and these engines need {'.'.join(map(str, _OLDEST))} or newer; "
            "JetPack 6.1 and later have it"
        )
    return trt


def load_tensorrt_rtx() -> Any:
    """The module ``tensorrt_rtx_bindings``.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
    """
    try:
        import tensorrt_rtx_bindings as trt
    except (ImportError, OSError) as error:  # OSError: its libraries are not there
        raise MissingDependencyError(
            f"TensorRT for RTX is not installed ({error}); pip install 'edge-runtime[tensorrt-rtx]' (x86-64 only)"
        ) from error
    return trt


def compute_capability_here() -> str:
    """Of the first GPU, as "8.7".

    Raises:
        MissingDependencyError: pycuda is not installed.
        BackendError: there is no GPU, or it does not answer.
    """
    from edge_runtime.backends.cuda import Device

    device = Device()
    try:
        return device.compute_capability
    finally:
        device.close()


def version_of(trt: Any) -> tuple[int, ...]:
    """``(10, 3, 0)``."""
    return tuple(int(number) for number in re.findall(r"\d+", trt.__version__))
