"""TensorRT's own entropy calibrator, fed with what reaches a component; finds no range itself.

Calibrators ended with TensorRT 10. With 11 this file cannot be imported, and need not be: there, ranges are written
into the graph (``qdq.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError, MissingDependencyError
from engines.calibration.activation_runner import ActivationRunner
from engines.calibration.cache import load_cache, save_cache
from engines.calibration.scales import binding_of, calibrate_on_cpu

try:
    import tensorrt as trt
except ImportError as error:
    raise MissingDependencyError(
        f"TensorRT is not installed ({error}); on a Jetson it comes with JetPack: sudo apt install nvidia-jetpack; "
        "elsewhere, ranges can be found without it: calibrate on the CPU"
    ) from error
if not hasattr(trt, "IInt8EntropyCalibrator2"):
    raise MissingDependencyError(
        f"TensorRT {trt.__version__} has no calibrators, as they ended with TensorRT 10; calibrate on the CPU, and "
        "build by the explicit route, which writes the ranges into the graph"
    )


class EntropyCalibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]  # TensorRT has no types
    """Calibrates the component in ``graph``, which is up next in ``runner``; to be used in a ``with`` statement.

    Where ``cache`` holds for the component, TensorRT is given that, and nothing is run; otherwise batches of one image,
    and what it finds is kept there. It takes any cache for its own: by another ``method`` than entropy, ranges are
    found on the CPU first. Afterwards the runner is one component further. What goes wrong in here is raised
    when the ``with`` ends, as an exception must not leave a callback of C++.

    Raises:
        CalibrationError: the cache is stale or damaged, the graph cannot be read, or there is no such method.
    """

    def __init__(self, runner: ActivationRunner, graph: Path, cache: Path, method: str = "entropy") -> None:
        super().__init__()  # TensorRT crashes without
        self._runner = runner
        self._graph = graph
        self._cache = cache
        self._binding = binding_of(runner, graph, trt.__version__, method)
        if method != "entropy":
            calibrate_on_cpu(runner, graph, cache, trt.__version__, method, stay=True)
        self._text = load_cache(cache, self._binding)
        self._open = ExitStack()
        self._samples: Iterator[Mapping[str, NDArray[Any]]] | None = None
        self._device: Any = None
        self._addresses: dict[str, int] = {}
        self._failure: BaseException | None = None

    def __enter__(self) -> EntropyCalibrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self._failure is not None:
            raise self._failure from error
        if error is None:
            self._runner.skip(self._graph)

    def get_batch_size(self) -> int:
        """TensorRT's question: images a batch."""
        return 1

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """TensorRT's question: where on the device the next image's inputs lie, in the order of ``names``."""
        try:
            return self._next_batch(names)
        except BaseException as failure:
            self._failure = failure
            return None

    def read_calibration_cache(self) -> bytes | None:
        """TensorRT's question: a cache, or None to calibrate."""
        return None if self._text is None else self._text.encode()

    def write_calibration_cache(self, cache: Any) -> None:
        """TensorRT's result: a cache, as a buffer."""
        if self._failure is not None or self._text is not None:
            return
        try:
            save_cache(self._cache, bytes(cache).decode(), self._binding)
        except BaseException as failure:
            self._failure = failure

    def _next_batch(self, names: Sequence[str]) -> list[int] | None:
        if self._samples is None:
            self._samples = iter(self._runner.samples(self._graph))
        sample = next(self._samples, None)
        if sample is None:
            return None
        if unknown := set(names) - sample.keys():
            raise CalibrationError(
                f"TensorRT asks for the input {min(unknown)}, and {self._graph.name} reads {', '.join(sorted(sample))}"
            )
        device = self._opened_device()
        import pycuda.driver as cuda  # here, as it needs a GPU

        for name in names:
            if name not in self._addresses:
                self._addresses[name] = device.allocate(sample[name].nbytes)
            with device.current():
                cuda.memcpy_htod(self._addresses[name], np.ascontiguousarray(sample[name]))
        return [self._addresses[name] for name in names]

    def _opened_device(self) -> Any:
        if self._device is None:
            from edge_runtime.backends.tensorrt.cuda import Device

            self._device = Device()
            self._open.callback(self._device.close)
        return self._device
