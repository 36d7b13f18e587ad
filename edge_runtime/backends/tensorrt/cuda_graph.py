"""Recording what a stream is given to do as a CUDA graph, which one call then repeats.

Pycuda has no such calls, so these go to the driver itself; everything else about CUDA is in ``cuda.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from edge_runtime.errors import BackendError

_THIS_THREAD_ONLY = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do as they please


class CudaGraph:
    """What ``enqueue`` puts on ``stream``, without running it; must be closed. All calls need a current device.

    Raises:
        BackendError: something in it cannot be recorded; the stream is as it was.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream)
        self._executable: ctypes.c_void_p | None = None
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, _THIS_THREAD_ONLY)
        try:
            try:
                enqueue()
            finally:
                ended = _driver().cuStreamEndCapture(self._stream, ctypes.byref(graph))
            _check("cuStreamEndCapture", ended)
            _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
            self._executable = executable
        finally:
            if graph:
                _driver().cuGraphDestroy(graph)

    def launch(self) -> None:
        """Run it in the stream's turn."""
        _call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Forget it; a second call does nothing."""
        executable, self._executable = self._executable, None
        if executable is not None:
            _driver().cuGraphExecDestroy(executable)


def _call(name: str, *arguments: object) -> None:
    _check(name, _driver()[name](*arguments))


def _check(name: str, result: int) -> None:
    if result != 0:
        raise BackendError(f"the CUDA driver refused {name} with error {result}")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
