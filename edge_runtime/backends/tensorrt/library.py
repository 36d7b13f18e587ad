"""TensorRT on a device: its runtime, why it failed, and the scratch that its contexts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.backends.tensorrt.callbacks import open_allocator, open_logger
from edge_runtime.backends.tensorrt.cuda import Device, PrivateMemory
from edge_runtime.errors import BackendError, BudgetExceededError

if TYPE_CHECKING:
    import tensorrt as trt


class Library:
    """TensorRT on a device."""

    def __init__(self, trt: Any, device: Device) -> None:
        self.trt = trt
        self.device = device
        self._logger = open_logger(trt)
        self._allocator = open_allocator(trt, device)
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
        if self._scratch is None or self._scratch.shape[0] < self._scratch_bytes:
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
