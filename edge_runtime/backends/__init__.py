"""Adapters to inference engines; each is the only file that imports its library."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.backends.base import Backend
from edge_runtime.errors import BundleTargetError


def _open_onnxruntime(threads: int | None) -> Backend:
    from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads)


_BACKENDS: dict[str, Callable[[int | None], Backend]] = {"onnxruntime": _open_onnxruntime}


def open_backend(target: str, threads: int | None = None) -> Backend:
    """The backend that executes bundles built for ``target``, on ``threads`` CPU threads (None: all cores).

    Raises:
        BundleTargetError: this runtime has none.
        MissingDependencyError: its library is not installed.
    """
    if target not in _BACKENDS:
        known = ", ".join(_BACKENDS)
        raise BundleTargetError(
            f"the bundle was built for {target!r}, and this runtime executes {known}; "
            "rebuild it: edge-engines build CHECKPOINT --recipe RECIPE --target onnxruntime --out BUNDLE"
        )
    return _BACKENDS[target](threads)
