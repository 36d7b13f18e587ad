"""TensorRT as a backend: which engines it takes, and how they get from a file to the device."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from numpy.typing import DTypeLike

from edge_runtime.backends.base import Array, Memory, Run
from edge_runtime.backends.tensorrt.cuda import Device
from edge_runtime.backends.tensorrt.engine import Binding, Recording, TensorRTEngine
from edge_runtime.backends.tensorrt.library import Library
from edge_runtime.backends.tensorrt.module import load_library
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import BackendError, BundleTargetError

if TYPE_CHECKING:
    import tensorrt as trt


def open_tensorrt(manifest: Manifest, limit_bytes: int | None = None) -> TensorRTBackend:
    """The backend for the engines of ``manifest``; takes at most ``limit_bytes`` of the device.

    Raises:
        MissingDependencyError: TensorRT or pycuda is not installed.
        BackendError: there is no device, or it does not answer.
        BundleTargetError: the engines were built for another TensorRT, or another GPU.
    """
    trt = load_library(manifest.target)
    device = Device(limit_bytes)
    try:
        _check_made_for(manifest, str(trt.__version__), device)
        return TensorRTBackend(Library(trt, device), manifest.step_tokens)
    except BaseException:
        device.close()
        raise


class TensorRTBackend:
    """Engines on one device; see :class:`edge_runtime.backends.base.Backend`."""

    def __init__(self, library: Library, step_rows: int) -> None:
        self._library = library
        self._step_rows = step_rows
        self._device = library.device
        self._engines: list[TensorRTEngine] = []
        self._recordings: WeakSet[Recording] = WeakSet()
        with self._device.current():
            self._runtime: trt.Runtime = library.open_runtime()

    @property
    def step_rows(self) -> int:
        """As many as the engines were built for."""
        return self._step_rows

    @property
    def held_bytes(self) -> int:
        """What engines and memory take of the device."""
        return self._device.held_bytes

    frees_memory = True

    def load(self, graph: Path) -> TensorRTEngine:
        """An engine, from its file as it is mapped into memory: the kernel may take those pages back at any time.

        Raises:
            BackendError: TensorRT refuses the file.
            BudgetExceededError: it would take more than the backend was allowed, or than there is.
        """
        try:
            with (
                self._device.current(),
                graph.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                engine = self._runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise BackendError(f"{graph} cannot be read: {error}; copy the bundle again") from error
        if engine is None:
            raise self._library.failure(f"{self._library.name} cannot load {graph.name}")
        loaded = TensorRTEngine(self._library, engine, graph.name)
        self._engines.append(loaded)
        return loaded

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Pinned memory, mapped into the device: on a Jetson, the same memory."""
        return self._device.shared(shape, dtype)

    def private(self, shape: Sequence[int], dtype: DTypeLike) -> Memory:
        """Device memory."""
        return self._device.private(shape, dtype)

    def clear(self, memory: Memory) -> None:
        """A fill on the device."""
        self._device.clear(memory)

    def append_rows(self, rows: Memory, target: Memory, at: int) -> None:
        """One strided copy on the device."""
        self._device.copy_rows(rows, target, at)

    def record(self, runs: Sequence[Run]) -> Run:
        """A CUDA graph, from the second call on."""
        recording = Recording(self._device, [cast(Binding, run) for run in runs])
        self._recordings.add(recording)
        return recording

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._device.synchronize()

    def close(self) -> None:
        """Give everything back."""
        with self._device.current():
            for recording in list(self._recordings):
                recording.close()
            while self._engines:
                self._engines.pop().close()
            self._runtime = None
        self._device.close()


def _check_made_for(manifest: Manifest, version: str, device: Device) -> None:
    built_with = str(manifest.build.get("tensorrt", "an unknown version"))
    built_for = str(manifest.build.get("compute_capability", "unknown"))
    here = device.compute_capability
    rebuild = (
        f"rebuild it on this machine: edge-engines build CHECKPOINT --recipe {manifest.recipe} "
        f"--target {manifest.target} --out BUNDLE"
    )
    if built_with != version:
        raise BundleTargetError(f"the engines were built by TensorRT {built_with}, and here is {version}; {rebuild}")
    if here not in built_for.split(","):
        raise BundleTargetError(
            f"the engines were built for GPUs of compute capability {built_for}, and this {device.name} has {here}; "
            f"{rebuild}"
        )
