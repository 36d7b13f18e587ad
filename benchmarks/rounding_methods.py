"""Ways to round one matrix, ours and public ones, as functions of its weights and the rows that met it; measures none.

Each gives the float32 matrix that is multiplied with in the end and, of 8 bits, what becomes of its inputs.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.quantize.activation_ranges import (
    LEVELS,
    entropy_range,
    max_range,
    mse_range,
    percentile_range,
    scale_of_range,
)
from engines.quantize.activations import measure_activations
from engines.quantize.formats.int4 import dequantize
from engines.quantize.formats.int8 import dequantize_int8, quantize_int8
from engines.quantize.histogram import Histogram
from engines.quantize.methods.awq import quantize_awq
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.methods.rtn import quantize_rtn

BLOCK = 128
_BATCH = 512  # rows that a calibrator sees at a time, as if they were an image's
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Rounded:
    """A matrix (N, K) after rounding, and a uniform grid for its inputs, of 8 bits; None: they stay as they are."""

    weight: Float32
    step: float | None = None
    lowest: int = -LEVELS
    highest: int = LEVELS

    def inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (..., K) as the matrix meets them."""
        if self.step is None:
            return rows
        return (rows / self.step).round().clamp(self.lowest, self.highest) * self.step


Method = Callable[[Float32, Float32], Rounded]  # of a matrix (N, K) and rows (T, K)


def rounding_to_nearest(weight: Float32, rows: Float32) -> Rounded:
    return Rounded(dequantize(quantize_rtn(weight, BLOCK)))


def awq(weight: Float32, rows: Float32) -> Rounded:
    found = quantize_awq(weight, BLOCK, measure_activations(rows))
    return Rounded(dequantize(found.calibrated.matrix) / found.input_scales)


def gptq(weight: Float32, rows: Float32) -> Rounded:
    return Rounded(dequantize(quantize_gptq(weight, BLOCK, measure_activations(rows)).matrix))


def int8_by(range_of: Callable[[Histogram], float]) -> Method:
    def round_matrix(weight: Float32, rows: Float32) -> Rounded:
        histogram = Histogram()
        for start in range(0, len(rows), _BATCH):
            histogram.add(rows[start : start + _BATCH])
        return Rounded(dequantize_int8(quantize_int8(weight)), scale_of_range(range_of(histogram)))

    return round_matrix


def awq_by_modelopt(weight: Float32, rows: Float32) -> Rounded:
    import modelopt.torch.quantization as mtq

    model = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight.data = torch.tensor(weight)
    with torch.no_grad():
        batches = torch.tensor(rows).split(_BATCH)
        mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop=lambda m: [m(batch) for batch in batches])
        return Rounded(model(torch.eye(weight.shape[1])).T.numpy())  # what the matrix does, input scales included


def gptq_by_llmcompressor(weight: Float32, rows: Float32) -> Rounded:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    arguments = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=BLOCK, actorder="weight")
    matrix, x = torch.tensor(weight), torch.tensor(rows)
    grouped = matrix.unflatten(1, (-1, BLOCK))
    scale, zero_point = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
    hessian = 2 / len(x) * x.T @ x
    found, _, _ = quantize_weight(matrix[None], hessian[None], scale[None], zero_point[None], None, arguments)
    return Rounded(found[0].numpy())


def int8_by_modelopt(weight: Float32, rows: Float32) -> Rounded:
    """Entropy as NVIDIA's toolkit has it; weights are rounded as ours are."""
    from modelopt.torch.quantization.calib import HistogramCalibrator

    calibrator = HistogramCalibrator(num_bits=8)
    for batch in torch.tensor(rows).split(_BATCH):
        calibrator.collect(batch)
    largest = float(calibrator.compute_amax("entropy"))
    return Rounded(dequantize_int8(quantize_int8(weight)), scale_of_range(largest))


def int8_by_onnxruntime(method: str, *, symmetric: bool = True, **options: float) -> Method:
    """``symmetric``: inputs without a zero point, which TensorRT's INT8 has not, nor ours."""

    def round_matrix(weight: Float32, rows: Float32) -> Rounded:
        from onnxruntime import quantization as ort

        class Reader(ort.CalibrationDataReader):
            def __init__(self) -> None:
                size = min(len(rows), _BATCH)  # all must be of one shape, so that the last few rows are left out
                self._batches = iter(rows[: len(rows) // size * size].reshape(-1, size, rows.shape[1]))

            def get_next(self) -> dict[str, Float32] | None:
                batch = next(self._batches, None)
                return None if batch is None else {"x": batch}

        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            onnx.save(_product(weight), source)
            ort.quantize_static(
                source,
                result,
                Reader(),
                per_channel=True,
                calibrate_method=ort.CalibrationMethod[method],
                extra_options={"ActivationSymmetric": symmetric, **options},
            )
            tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(result).graph.initializer}
        step, zero = float(tensors["x_scale"]), int(tensors["x_zero_point"])
        info = np.iinfo(tensors["x_zero_point"].dtype)
        matrix = tensors["w_quantized"] * tensors["w_scale"].astype(np.float32)
        return Rounded(np.ascontiguousarray(matrix.T), step, int(info.min) - zero, int(info.max) - zero)

    return round_matrix


def _product(weight: Float32) -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("T", width))
        for name, width in (("x", weight.shape[1]), ("y", weight.shape[0]))
    )
    matrix = numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [matrix])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


METHODS: Mapping[str, Mapping[str, Method]] = {
    "INT4": {
        "rounding to nearest": rounding_to_nearest,
        "AWQ, ModelOpt": awq_by_modelopt,
        "AWQ, ours": awq,
        "GPTQ, llm-compressor": gptq_by_llmcompressor,
        "GPTQ, ours": gptq,
    },
    "INT8": {
        "largest, ONNX Runtime, zero point": int8_by_onnxruntime("MinMax", symmetric=False),
        "largest, ONNX Runtime": int8_by_onnxruntime("MinMax"),
        "largest, ours": int8_by(max_range),
        "99.999 %, ONNX Runtime, zero point": int8_by_onnxruntime("Percentile", symmetric=False),
        "99.999 %, ONNX Runtime": int8_by_onnxruntime("Percentile"),
        "99.999 %, ours": int8_by(partial(percentile_range, percentile=99.999)),
        "99.99 %, ONNX Runtime": int8_by_onnxruntime("Percentile", CalibPercentile=99.99),
        "99.99 %, ours": int8_by(percentile_range),
        "squared error, ours": int8_by(mse_range),
        "entropy, ONNX Runtime": int8_by_onnxruntime("Entropy"),
        "entropy, ModelOpt": int8_by_modelopt,
        "entropy, ours": int8_by(entropy_range),
    },
}

logging.getLogger().setLevel(logging.ERROR)  # the others chat
