"""Adapters to inference engines; each is the only file that imports its library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from edge_runtime.backends.base import Backend
from edge_runtime.backends.native import find_operators
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import BundleTargetError
from edge_runtime.memory.footprint import FOOTPRINTS
from edge_runtime.signals import holding_interrupts


def _open_onnxruntime(manifest: Manifest, threads: int | None, limit_bytes: int | None) -> Backend:
    with holding_interrupts():
        from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads, FOOTPRINTS[manifest.target].step_rows)


def _open_onnxruntime_amx(manifest: Manifest, threads: int | None, limit_bytes: int | None) -> Backend:
    find_operators()
    return _open_onnxruntime(manifest, threads, limit_bytes)


def _open_tensorrt(manifest: Manifest, threads: int | None, limit_bytes: int | None) -> Backend:
    with holding_interrupts():
        from edge_runtime.backends.tensorrt.backend import open_tensorrt

    return open_tensorrt(manifest, limit_bytes)


_BACKENDS: dict[str, Callable[[Manifest, int | None, int | None], Backend]] = {
    "onnxruntime": _open_onnxruntime,
    "onnxruntime-amx": _open_onnxruntime_amx,
    "tensorrt": _open_tensorrt,
    "tensorrt-rtx": _open_tensorrt,
}


def check_target(manifest: Manifest) -> None:
    """See whether this runtime executes what a bundle was built for.

    Raises:
        BundleTargetError: it does not.
    """
    if manifest.target not in _BACKENDS:
        known = ", ".join(_BACKENDS)
        raise BundleTargetError(
            f"the bundle was built for {manifest.target!r}, and this runtime executes {known}; rebuild it: "
            f"edge-engines build CHECKPOINT --recipe {manifest.recipe} --target onnxruntime --out BUNDLE"
        )


def device_memory_bytes(manifest: Manifest) -> int | None:
    """All memory of the device that executes the bundle of ``manifest``; None where that is the CPU.

    Raises:
        BundleTargetError, MissingDependencyError, BackendError: as :func:`open_backend`.
    """
    check_target(manifest)
    if manifest.target.startswith("onnxruntime"):
        return None
    with holding_interrupts():
        from edge_runtime.backends.tensorrt.cuda import Device

    with closing(Device()) as device:
        return device.total_bytes


def open_backend(manifest: Manifest, threads: int | None = None, limit_bytes: int | None = None) -> Backend:
    """The backend that executes the bundle of ``manifest``, on ``threads`` CPU threads (None: all cores).

    On a device it takes at most ``limit_bytes`` for engines and memory; None is no limit.

    Raises:
        BundleTargetError: this runtime has none, or the engines were built for another version or device.
        MissingDependencyError: its library is not installed.
        BackendError: there is no device, or it does not answer.
    """
    check_target(manifest)
    return _BACKENDS[manifest.target](manifest, threads, limit_bytes)
