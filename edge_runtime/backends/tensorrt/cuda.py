"""The one CUDA device: its context, one stream, and every byte taken of it; knows no engine.

Memory of both kinds is handed out inside a limit: *shared* memory is pinned and mapped, so that on a Jetson, where CPU
and GPU have the same memory, nothing is ever copied; *private* memory is the device's own.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from weakref import finalize

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_runtime.backends.base import Array, Memory
from edge_runtime.errors import BackendError, BudgetExceededError, MissingDependencyError

try:
    import pycuda.driver as cuda
except ImportError as error:
    raise MissingDependencyError(
        f"pycuda is not installed, or finds no CUDA driver ({error}); on a Jetson, "
        "pip install '.[jetson]' in a checkout"
    ) from error


class PrivateMemory:
    """A handle of device memory that NumPy slices and nobody on the CPU may read."""

    def __init__(self, view: NDArray[Any], whole: PrivateMemory | None = None) -> None:
        self._view = view
        self._whole = whole  # which lives as long as any part of it

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all dimensions."""
        return self._view.shape

    @property
    def dtype(self) -> Any:
        """NumPy's type of the elements."""
        return self._view.dtype

    @property
    def layout(self) -> NDArray[Any]:
        """An array at the device's address, for its shape, strides and address; its elements must not be touched."""
        return self._view

    def __getitem__(self, slices: Any, /) -> PrivateMemory:
        """A view, as NumPy slices."""
        return PrivateMemory(self._view[slices], self._whole or self)


class Device:
    """Must be closed after whatever uses it. Any thread may use it, one at a time.

    ``limit_bytes`` is the most that it gives out; None is no limit but the device's own. Memory that nobody refers to
    any more is taken back before anything else is given out.

    Raises:
        BackendError: there is no device, or it does not answer.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._allocations: dict[int, _Allocation] = {}  # by the device's address
        self._abandoned: deque[int] = deque()  # addresses; whoever collects garbage must not call CUDA
        self._device, self._context = _first_device()
        with self.current():
            self._stream: Any = cuda.Stream()

    @property
    def name(self) -> str:
        """The device's own name."""
        return str(self._device.name())

    @property
    def compute_capability(self) -> str:
        """As in ``"8.7"``."""
        return "{}.{}".format(*self._device.compute_capability())

    @property
    def total_bytes(self) -> int:
        """Memory that the device can reach; on a Jetson, the machine's."""
        return int(self._device.total_memory())

    @property
    def held_bytes(self) -> int:
        """What was given out and not taken back."""
        self._take_back_abandoned()
        return sum(allocation.size_bytes for allocation in self._allocations.values())

    @property
    def stream(self) -> int:
        """The stream's handle: everything happens on it, in order."""
        return int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device this thread's, and CUDA's errors ``BackendError``."""
        with _translated():
            self._context.push()
            try:
                yield
            finally:
                cuda.Context.pop()

    def allocate(self, size_bytes: int) -> int:
        """The address of so much device memory.

        Raises:
            BudgetExceededError: the limit, or the device, has no more.
        """
        with self._admitted(size_bytes):
            memory = cuda.mem_alloc(size_bytes)
            self._allocations[int(memory)] = _Allocation(memory, size_bytes)
        return int(memory)

    def free(self, address: int) -> None:
        """Take back what :meth:`allocate` gave."""
        with self.current():
            if allocation := self._allocations.pop(address, None):  # none: the device was closed before
                allocation.memory.free()

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Zeros that the CPU and the device both touch, at an address for each; see :meth:`allocate`."""
        with self._admitted(_size_bytes(shape, dtype)) as size_bytes:
            mapped = cuda.host_alloc_flags.DEVICEMAP
            array: Array = cuda.pagelocked_zeros(tuple(shape), dtype, mem_flags=mapped)
            memory: Any = array.base
            address = int(memory.get_device_pointer())
            self._allocations[address] = _Allocation(memory, size_bytes, array.ctypes.data)
            finalize(array, self._abandoned.append, address).atexit = False
        return array

    def private(self, shape: Sequence[int], dtype: DTypeLike) -> PrivateMemory:
        """Zeros that only the device touches; see :meth:`allocate`."""
        address = self.allocate(_size_bytes(shape, dtype))
        memory = PrivateMemory(_array_at(address, shape, dtype))
        finalize(memory, self._abandoned.append, address).atexit = False
        self.clear(memory)
        return memory

    def clear(self, memory: Memory) -> None:
        """Make all of a private memory zeros, in the stream's turn."""
        with self.current():
            size_bytes = cast(PrivateMemory, memory).layout.nbytes
            cuda.memset_d8_async(self.address_of(memory), 0, size_bytes, self._stream)

    def address_of(self, memory: Memory) -> int:
        """Where the device finds memory that it gave out, or a contiguous view of it.

        Raises:
            BackendError: it is not contiguous, or not of this device.
        """
        layout = memory.layout if isinstance(memory, PrivateMemory) else cast(Array, memory)
        if not layout.flags.c_contiguous:
            raise BackendError(f"memory of {layout.shape} with strides {layout.strides} is not contiguous")
        at: int = layout.ctypes.data
        if isinstance(memory, PrivateMemory):
            return at
        for address, allocation in self._allocations.items():
            if allocation.cpu_address is not None and 0 <= at - allocation.cpu_address < allocation.size_bytes:
                return address + at - allocation.cpu_address
        raise BackendError(f"an array of {layout.shape} is not memory of this device; make it with shared()")

    def copy_rows(self, rows: Memory, target: Memory, at: int) -> None:
        """Private ``rows`` (N, T, ...) to ``target[:, at : at + T]``, by one strided copy in the stream's turn."""
        source = cast(PrivateMemory, rows).layout
        place = cast(PrivateMemory, target).layout[:, at : at + source.shape[1]]
        copy = cuda.Memcpy2D()
        copy.set_src_device(source.ctypes.data)
        copy.set_dst_device(place.ctypes.data)
        copy.src_pitch, copy.dst_pitch = source.strides[0], place.strides[0]
        copy.width_in_bytes, copy.height = source[0].nbytes, source.shape[0]
        with self.current():
            copy(self._stream)

    def synchronize(self) -> None:
        """Wait for everything on the stream.

        Raises:
            BackendError: something on it failed.
        """
        with self.current():
            self._stream.synchronize()

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        if self._stream is None:
            return
        with suppress(BackendError):  # whoever waited for the device has heard of it
            self.synchronize()
        with self.current():
            while self._allocations:
                self._allocations.popitem()[1].memory.free()
            self._abandoned.clear()
            self._stream = None

    def _take_back_abandoned(self) -> None:
        while self._abandoned:
            self.free(self._abandoned.popleft())

    @contextmanager
    def _admitted(self, size_bytes: int) -> Iterator[int]:
        self._take_back_abandoned()
        left = None if self._limit_bytes is None else self._limit_bytes - self.held_bytes
        if left is not None and size_bytes > left:
            raise BudgetExceededError(
                f"the engines ask for {size_bytes} bytes more, and {left} are left of the {self._limit_bytes} that the "
                "budget gives them; raise the budget, or build a smaller bundle: edge-engines plan CHECKPOINT "
                "--budget ... says what would fit"
            )
        with self.current():
            try:
                yield size_bytes
            except cuda.MemoryError as error:
                raise BudgetExceededError(
                    f"the device has no {size_bytes} bytes left beside the {self.held_bytes} that are taken; stop what "
                    "else uses its memory, or build a smaller bundle: edge-engines plan CHECKPOINT --budget ... says "
                    "what would fit"
                ) from error


@dataclass(frozen=True)
class _Allocation:
    memory: Any  # pycuda's owner
    size_bytes: int
    cpu_address: int | None = None  # of memory that is mapped


@cache
def _first_device() -> tuple[Any, Any]:
    """The device and its primary context, which TensorRT uses too; kept, as letting go would end it under TensorRT."""
    with _translated():
        cuda.init()
        device = cuda.Device(0)
        return device, device.retain_primary_context()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except cuda.Error as error:
        raise BackendError(
            f"the CUDA device failed: {error}; start anew, and see edge-runtime doctor where that does not help"
        ) from error


def _size_bytes(shape: Sequence[int], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _array_at(address: int, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """An array where this process may not read; NumPy does not look inside to slice it."""
    place: Any = (ctypes.c_char * _size_bytes(shape, dtype)).from_address(address)
    return np.frombuffer(place, dtype).reshape(shape)
