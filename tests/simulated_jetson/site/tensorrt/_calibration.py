"""Implicit INT8 as TensorRT does it up to 10.x: calibrator first, then ranges, then layers that may use them.

The calibrator is driven by TensorRT's protocol: its cache is asked for first; only where there is none, batches are
fetched until None comes; then the cache is written. Ranges are found by the project's own implementation of the
published method, from the batches in device memory. Layers are emulated by rounding what they read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from engines.calibration.cache import scales_from_text, text_from_scales
from engines.onnx.float32 import float32_twin
from engines.onnx.qdq import insert_qdq
from engines.onnx.tensors import tensors_in_products
from engines.quantize.activation_ranges import entropy_range, scale_of_range
from engines.quantize.histogram import Histogram

from ._cuda import array_at
from ._real import ENUMS, VERSION, real

Algorithm = ENUMS.get("CalibrationAlgoType")


@real
class IInt8Calibrator:
    """What all calibrators have."""

    def __init__(self) -> None:
        self._is_constructed = True


@real
class IInt8EntropyCalibrator2(IInt8Calibrator):
    """The application derives from it, and must call this constructor."""

    def __init__(self) -> None:
        self._is_constructed = True

    def get_algorithm(self) -> Any:
        return Algorithm.ENTROPY_CALIBRATION_2  # type: ignore[union-attr]

    def get_batch_size(self) -> int:
        return 1

    def get_batch(self, names: list[str]) -> list[int] | None:
        raise NotImplementedError('Tried to call pure virtual function "IInt8EntropyCalibrator2::get_batch"')

    def read_calibration_cache(self) -> Any:
        return None

    def write_calibration_cache(self, cache: Any) -> None:
        pass


def scales_from_calibrator(calibrator: Any, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Scales by tensor; ``shapes`` are the inputs' in calibration.

    Raises:
        ValueError: the calibrator breaks the protocol; TensorRT itself would crash, or build nonsense.
    """
    if not getattr(calibrator, "_is_constructed", False):
        raise ValueError("the calibrator did not call IInt8EntropyCalibrator2.__init__: TensorRT would crash")
    cache = calibrator.read_calibration_cache()
    if cache is not None and len(cache):
        return scales_from_text(bytes(cache).decode())
    scales = _measured(calibrator, model, shapes)
    calibrator.write_calibration_cache(memoryview(text_from_scales(scales, VERSION).encode()))
    return scales


def _measured(calibrator: Any, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    inputs = {value.name: _dtype(value) for value in model.graph.input}
    observed = tensors_in_products(model)
    extended = float32_twin(model)  # TensorRT calibrates in float32 whatever the flags
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in observed)
    session = ort.InferenceSession(extended.SerializeToString(), providers=["CPUExecutionProvider"])
    histograms = {name: Histogram() for name in observed}
    calibrator.get_batch_size()
    batches = 0
    while True:
        addresses = calibrator.get_batch([*inputs])
        if not addresses:
            break
        if len(addresses) != len(inputs) or not all(isinstance(address, int) for address in addresses):
            raise ValueError(f"get_batch gave {addresses}, expected {len(inputs)} device addresses as integers")
        feed = {
            name: array_at(address, shapes[name], dtype)
            for (name, dtype), address in zip(inputs.items(), addresses, strict=True)
        }
        for name, values in zip(observed, session.run(observed, feed), strict=True):
            histograms[name].add(values)
        batches += 1
    if not batches:
        raise ValueError("the calibrator has no cache and gave no batch")
    return {name: scale_of_range(entropy_range(histogram)) for name, histogram in histograms.items()}


def _dtype(value: onnx.ValueInfoProto) -> Any:
    """TensorRT's calibrators are given float32 whatever the network's type is; integers stay."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else dtype


def rounded_to_int8(
    model: onnx.ModelProto, scales: Mapping[str, float], kept: set[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph with activations and weights rounded where a matrix product may be INT8, and the names of those nodes.

    ``kept`` names nodes that must not be.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    known = weights.keys() | scales.keys()
    free = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[0] in scales and n.input[1] in known]
    chosen = [node for node in free if node.name not in kept]
    result = insert_qdq(model, {name: scales[name] for node in chosen for name in node.input if name in scales})
    rounded = {tensor.name: tensor for tensor in result.graph.initializer}
    for name in {node.input[1] for node in chosen} & weights.keys():
        values = numpy_helper.to_array(weights[name]).astype(np.float32)
        steps = np.maximum(np.abs(values).max(axis=0, keepdims=True) / 127, np.finfo(np.float32).tiny)
        stored = (np.rint(values / steps) * steps).astype(numpy_helper.to_array(weights[name]).dtype)
        rounded[name].CopyFrom(numpy_helper.from_array(stored, name))
    for kept_node, original in _same_nodes(result, model):  # insert_qdq rounds for all readers of a tensor
        if original.name in kept:
            kept_node.input[:] = original.input
    return result, tuple(node.name for node in chosen)


def _same_nodes(result: onnx.ModelProto, model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    by_output = {node.output[0]: node for node in result.graph.node}
    return [(by_output[node.output[0]], node) for node in model.graph.node]
