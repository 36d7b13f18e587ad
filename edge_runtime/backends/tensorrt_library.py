"""TensorRT on a device: what it calls back, its log and its allocator, and the scratch that its contexts share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.backends.cuda import Device, PrivateMemory
from edge_runtime.errors import BackendError, BudgetExceededError

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)


class Library:
    """TensorRT on a device."""

    def __init__(self, trt: Any, device: Device) -> None:
        self.trt = trt
        self.device = device
        self._logger = _open_logger(trt)
        self._allocator = _open_allocator(trt, device)
        self._scratch: PrivateMemory | None = None
        self._scratch_bytes = 1

    @property
    def name(self) -> str:
        """As in ``"TensorRT 10.3.0"``."""
        return f"TensorRT {self.trt.__version__}"

    def open_runtime(self) -> trt.Runtime:
        """A ``Runtime`` that takes its memory from the device, which counts it."""
        runtime = self.trt.Runtime(self._logger)
        runtime.gpu_allocator = self._allocator
        return runtime

    def need_scratch(self, size_bytes: int) -> None:
        """Announce a context that computes in ``size_bytes``."""
        self._scratch_bytes = max(self._scratch_bytes, size_bytes)

    def scratch(self) -> PrivateMemory:
        """What every context computes in, one at a time: large enough for all that were announced."""
        if self._scratch is None or self._scratch.shape[0] < self._scratch_bytes:  # contexts keep an old one
            self._scratch = self.device.private((self._scratch_bytes,), np.uint8)
        return self._scratch

    def failure(self, what: str) -> BackendError | BudgetExceededError:
        """An error that says ``what`` happened and why: TensorRT's last complaint, or that there is no memory."""
        refusal, self._allocator.refusal = self._allocator.refusal, None
        if isinstance(refusal, BudgetExceededError):
            return BudgetExceededError(f"{what}: {refusal}")
        complaints = self._logger.complaints
        reason = complaints[-1] if complaints else "it gives no reason"
        complaints.clear()
        return BackendError(f"{what}: {reason}; rebuild the bundle, or see edge-runtime doctor")


def _open_logger(trt: Any) -> Any:
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


def _open_allocator(trt: Any, device: Device) -> Any:
    """An ``IGpuAllocator`` that takes from ``device``; no exception may leave it, so ``refusal`` keeps the last."""

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)
            self.refusal: Exception | None = None

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            try:
                return device.allocate(size) if size else 0  # CUDA aligns to 256 bytes, and TensorRT asks for no more
            except Exception as error:
                self.refusal = error
                return 0

        def deallocate(self, memory: int) -> bool:
            try:
                device.free(int(memory))
            except Exception as error:
                _log.warning("TensorRT's memory was not given back: %s", error)
                return False
            return True

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            return self.allocate(size, alignment, flags)

        def deallocate_async(self, memory: int, stream: int) -> bool:
            device.synchronize()  # whatever the stream still does with it
            return self.deallocate(memory)

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0  # TensorRT then allocates and copies

    return Allocator()
