"""ONNX Runtime's CPU provider as a backend; the only file that imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

try:
    import onnxruntime as ort
except ImportError as error:
    from edge_runtime.errors import MissingDependencyError

    raise MissingDependencyError("onnxruntime is not installed; pip install edge-runtime") from error

from edge_runtime.backends.base import Array
from edge_runtime.errors import BackendError

_FATAL_ONLY = 4  # ONNX Runtime's log level: what matters comes back as an exception


class OnnxRuntimeBackend:
    """Loads components as sessions with ``threads`` threads each (None: the cores this process may use)."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))

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
        try:
            session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions share no base of their own
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load {graph.name}: {_first_line(error)}; "
                "rebuild the bundle with the builder of this version"
            ) from error
        return OnnxRuntimeEngine(session, graph.name)


class OnnxRuntimeEngine:
    """One session and its bindings."""

    def __init__(self, session: ort.InferenceSession, name: str) -> None:
        self._session: ort.InferenceSession | None = session
        self._name = name

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """See :class:`edge_runtime.backends.base.Engine`."""
        session = self._open_session()
        binding = session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        except Exception as error:
            raise BackendError(f"{self._name} has other inputs or outputs: {_first_line(error)}") from error
        arrays = (*inputs.values(), *outputs.values())  # kept alive as long as the binding that points into them

        def run() -> None:
            try:
                self._open_session().run_with_iobinding(binding)
            except Exception as error:
                shapes = ", ".join(str(array.shape) for array in arrays[:1])
                raise BackendError(f"{self._name} failed on an input of {shapes}: {_first_line(error)}") from error

        return run

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _open_session(self) -> ort.InferenceSession:
        if self._session is None:
            raise BackendError(f"{self._name} is closed")
        return self._session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
