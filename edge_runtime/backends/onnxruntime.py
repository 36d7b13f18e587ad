"""ONNX Runtime's CPU provider as a backend; the only file that imports onnxruntime."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from edge_runtime.errors import BackendError, EdgeRuntimeError, MissingDependencyError

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependencyError("onnxruntime is not installed; pip install . in a checkout") from error

from edge_runtime.backends.base import Array, Memory, Run
from edge_runtime.backends.native import DOMAIN, find_operators
from edge_runtime.memory.telemetry import resident_bytes

_MADV_PAGEOUT = 21  # Linux 5.4; what was written to stays, as MADV_DONTNEED would not have it
_MADV_POPULATE_READ = 22  # Linux 5.14; without it pages come when they are first read
_FATAL_ONLY = 4  # ONNX Runtime's log level: what matters comes back as an exception


class OnnxRuntimeBackend:
    """Loads components as sessions with ``threads`` threads each (None: the cores this process may use).

    Memory is NumPy's, and everything has happened when a call returns.
    """

    def __init__(self, threads: int | None = None, step_rows: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._step_rows = step_rows or sys.maxsize

    @property
    def step_rows(self) -> int:
        """As many as were asked for."""
        return self._step_rows

    @property
    def held_bytes(self) -> int:
        """The process's resident memory: the library does not count its own."""
        return resident_bytes()

    frees_memory = True

    def load(self, graph: Path) -> OnnxRuntimeEngine:
        """A session on ``graph``; external weights beside it are memory-mapped by the library.

        Raises:
            BackendError: the file is no model, or one that this version cannot execute.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        # Threads that spin at a barrier lose their core to whatever else flies: on 2 cores beside a busy process, a
        # report took 480 ms with spinning and 135 ms without; alone, spinning gains nothing that could be measured.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        _share_scratch()
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            reads_in_place = DOMAIN.encode() in graph.read_bytes()
            if reads_in_place:
                options.register_custom_ops_library(str(find_operators()))
            session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except EdgeRuntimeError:
            raise
        except Exception as error:  # the library's exceptions share no base of their own
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load {graph.name}: {_first_line(error)}; "
                "upgrade it, or rebuild the bundle with the builder of this version"
            ) from error
        _advise(graph.with_name(graph.name + ".data"), _MADV_POPULATE_READ if reads_in_place else _MADV_PAGEOUT)
        return OnnxRuntimeEngine(session, graph.name)

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """An array of zeros."""
        # Written, not np.zeros: that would only reserve the pages, and a drone must not run out of memory in the air.
        return np.full(shape, 0, dtype)

    private = shared

    def clear(self, memory: Memory) -> None:
        """Write zeros."""
        cast(Array, memory)[...] = 0

    def append_rows(self, rows: Memory, target: Memory, at: int) -> None:
        """Copy ``rows`` (N, T, ...) to ``target[:, at : at + T]``."""
        cast(Array, target)[:, at : at + rows.shape[1]] = rows

    def record(self, runs: Sequence[Run]) -> Run:
        """The runs, one after another."""

        def run() -> None:
            for one in runs:
                one()

        return run

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing is held: sessions and arrays go with their last user."""


class OnnxRuntimeEngine:
    """One session and its bindings."""

    def __init__(self, session: ort.InferenceSession, name: str) -> None:
        self._session: ort.InferenceSession | None = session
        self._name = name

    def bind(self, inputs: Mapping[str, Memory], outputs: Mapping[str, Memory]) -> Run:
        """See :class:`edge_runtime.backends.base.Engine`."""
        session = self._open_session()
        binding = session.io_binding()
        arrays = [cast(Array, memory) for memory in (*inputs.values(), *outputs.values())]  # alive while bound
        places = [(array.dtype.type, array.shape, array.ctypes.data) for array in arrays]
        try:
            for name, place in zip(inputs, places, strict=False):
                binding.bind_input(name, "cpu", 0, *place)
            for name, place in zip(outputs, places[len(inputs) :], strict=True):
                binding.bind_output(name, "cpu", 0, *place)
        except Exception as error:
            raise BackendError(f"{self._name} has other inputs or outputs: {_first_line(error)}") from error

        def run() -> None:
            try:
                self._open_session().run_with_iobinding(binding)
            except Exception as error:
                shapes = ", ".join(str(array.shape) for array in arrays[:1])
                raise BackendError(f"{self._name} failed on an input of {shapes}: {_first_line(error)}") from error

        return run

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on ``inputs``; every output by name, in an array of its own.

        Raises:
            BackendError: the engine has other inputs, or fails.
        """
        session = self._open_session()
        try:
            arrays = session.run(None, dict(inputs))
        except Exception as error:
            raise BackendError(f"{self._name} failed: {_first_line(error)}") from error
        return {spec.name: array for spec, array in zip(session.get_outputs(), arrays, strict=True)}

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _open_session(self) -> ort.InferenceSession:
        if self._session is None:
            raise BackendError(f"{self._name} is closed")
        return self._session


def check_version(what: str, since: tuple[int, int], installed: str = ort.__version__) -> None:
    """See whether the installed library can do ``what``, which those from version ``since`` on can.

    Raises:
        MissingDependencyError: it is older.
    """
    if tuple(int(number) for number in installed.split(".")[:2]) < since:
        raise MissingDependencyError(
            f"{what} takes ONNX Runtime {since[0]}.{since[1]} or newer, and {installed} is installed; upgrade it, "
            "which may take a newer Python, or do without"
        )


@cache
def _share_scratch() -> None:
    """Give all sessions one arena: components run one after another, and a layer group of a 13B held 39 MB of its own.

    Forty of them made 1.6 GB. What sessions free goes back to the system as before.
    """
    arena = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    with suppress(Exception):  # the process has registered one already, which serves as well
        ort.create_and_register_allocator(arena, None)


def _advise(weights: Path, advice: int) -> None:
    """Tell the system what becomes of the pages of a mapped file.

    Let go of what loading has read, and running may never, as most is packed in other memory by now: in 40 groups of a
    13B that is 0.4 GB, and what is asked for after all is read from the file again. Or bring in what running reads.
    """
    with suppress(OSError, AttributeError):  # no /proc, or a C library without madvise
        madvise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, *_, name = line.split(maxsplit=5)
            if name == str(weights.resolve()):
                first, end = (int(address, 16) for address in addresses.split("-"))
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
