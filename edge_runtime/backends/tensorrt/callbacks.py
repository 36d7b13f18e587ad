"""What TensorRT calls back: a log, and an allocator that charges somebody; knows no device.

TensorRT is C++, which no exception of Python may enter: what goes wrong in here is kept for whoever called TensorRT.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where device memory comes from."""

    def allocate(self, size_bytes: int) -> int:
        """The address of so much, aligned to 256 bytes, as CUDA does."""

    def free(self, address: int) -> None:
        """Take it back."""

    def synchronize(self) -> None:
        """Wait for whatever may still use it."""


def open_logger(trt: Any) -> Any:
    """An ``ILogger`` that keeps what TensorRT complains of in ``complaints``, and passes warnings on as debug lines."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.complaints: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.complaints.append(message.strip())
            elif severity == trt.ILogger.Severity.WARNING:
                _log.debug("%s", message.strip())

    return Logger()


def open_allocator(trt: Any, source: Source) -> Any:
    """An ``IGpuAllocator`` that takes from ``source``; ``refusal`` is why it had nothing the last time."""

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)
            self.refusal: Exception | None = None

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            try:
                return source.allocate(size) if size else 0
            except Exception as error:
                self.refusal = error
                return 0

        def deallocate(self, memory: int) -> bool:
            try:
                source.synchronize()  # whatever may still use it
                source.free(int(memory))
            except Exception as error:
                _log.warning("TensorRT's memory was not given back: %s", error)
                return False
            return True

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            return self.allocate(size, alignment, flags)

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return self.deallocate(memory)

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0  # TensorRT then allocates and copies

    return Allocator()
