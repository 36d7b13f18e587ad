"""The double's own way to the simulated device: what TensorRT's C++ would do with CUDA."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CUDA = ctypes.CDLL("libcuda.so.1")
for _name in ("cuMemAlloc_v2", "cuMemFree_v2", "cuLaunchHostFunc", "cuStreamIsCapturing", "jetson_holds"):
    getattr(_CUDA, _name).argtypes = {
        "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
        "cuMemFree_v2": (ctypes.c_uint64,),
        "cuLaunchHostFunc": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        "cuStreamIsCapturing": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)),
        "jetson_holds": (ctypes.c_uint64, ctypes.c_size_t),
    }[_name]


def allocate(size: int) -> int:
    """Device memory, 0 where there is none."""
    address = ctypes.c_uint64(0)
    return address.value if _CUDA.cuMemAlloc_v2(ctypes.byref(address), size) == 0 else 0


def free(address: int) -> None:
    """Give it back."""
    _CUDA.cuMemFree_v2(address)


def holds(address: int, size: int) -> bool:
    """Whether the device may touch all of it."""
    return bool(_CUDA.jetson_holds(address, size))


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Device memory as an array.

    Raises:
        MemoryError: some of it is not the device's.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not holds(address, size):
        raise MemoryError(f"an illegal memory access: {size} bytes at {address:#x}")
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Calls:
    """What streams are to call; a call that was captured into a graph is kept as long as this object."""

    def __init__(self) -> None:
        self._captured: list[int] = []

    def enqueue(self, stream: int, call: Callable[[], None]) -> bool:
        """Let ``stream`` call it when its turn comes."""
        capturing = ctypes.c_int()
        _CUDA.cuStreamIsCapturing(stream, ctypes.byref(capturing))
        number = next(_numbers)
        _calls[number] = (call, bool(capturing.value))
        if capturing.value:
            self._captured.append(number)
        return bool(_CUDA.cuLaunchHostFunc(stream, _callback, number) == 0)

    def __del__(self) -> None:
        for number in self._captured:
            _calls.pop(number, None)


_calls: dict[int, tuple[Callable[[], None], bool]] = {}
_numbers = itertools.count(1)
complaints: list[Callable[[str], None]] = []  # where an error on the device is told


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _callback(number: int) -> None:
    call, is_captured = _calls.get(number, (None, False))
    try:
        if call is None:
            raise RuntimeError("a CUDA graph ran an execution context that is gone")
        call()
    except Exception as error:  # what C cannot take: the device is at fault from here on
        for complain in complaints[-1:]:
            complain(str(error))
        _CUDA.jetson_fault()
    if not is_captured:
        _calls.pop(number, None)
