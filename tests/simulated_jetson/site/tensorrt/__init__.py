"""TensorRT for machines without one: the real bindings' names and calls, executed by ONNX Runtime.

Imported as ``tensorrt`` inside ``tests/simulated_jetson/run``; what it holds itself to is in ``_real``, how strict the
device below it is, in ``tests/simulated_jetson/libcuda``. Numbers are ONNX Runtime's and times mean nothing.
"""

# ruff: noqa: F401 (names are imported here for those who import this)

from __future__ import annotations

from typing import Any

import numpy as np

from ._builder import Builder, IBuilderConfig, IHostMemory, IOptimizationProfile, IProgressMonitor, ITimingCache
from ._network import ILayer, ILogger, INetworkDefinition, ITensor, Logger, OnnxParser, ParserError
from ._real import ENUMS, NAMES, NUMBER, function
from ._runtime import ICudaEngine, IExecutionContext, IGpuAllocator, Runtime

__version__ = NUMBER

for _path, _enum in ENUMS.items():
    if "." not in _path:
        globals()[_path] = _enum
for _path, _entry in NAMES.entries.items():
    if "." not in _path and _entry.get("is") == "DataType":  # float32, int8, ...
        _spelled = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "bool": "BOOL"}
        globals()[_path] = ENUMS["DataType"].__members__.get(_spelled.get(_path, _path.upper()))

if NAMES.is_class("IInt8EntropyCalibrator2"):
    from ._calibration import IInt8Calibrator, IInt8EntropyCalibrator2


@function
def volume(iterable: Any) -> int:
    """The number of elements of a shape."""
    return int(np.prod(list(iterable)))


@function
def nptype(trt_type: Any) -> Any:
    """NumPy's type for TensorRT's."""
    spelled = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool_"}
    try:
        return getattr(np, spelled.get(trt_type.name, trt_type.name.lower()))
    except AttributeError:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.") from None


@function
def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    """There are none."""
    return True
