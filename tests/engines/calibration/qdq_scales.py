"""Reads INT8 scales back out of a graph's Q/DQ nodes, for tests that compare them with what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper

from edge_runtime.errors import CalibrationError
from engines.onnx.tensors import constants


def scales_from_qdq(model: onnx.ModelProto) -> dict[str, float]:
    """Inverse of :func:`insert_qdq`: the scale of every activation that the graph rounds to INT8 as a whole.

    Raises:
        CalibrationError: a zero point is not 0, which a cache cannot say; or a scale is not in the graph itself.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    fixed = constants(model)
    scales = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in fixed:
            continue
        name, scale = node.input[0], _number(weights, node.input[1])
        zero = _number(weights, node.input[2]) if len(node.input) > 2 else 0.0
        if scale is None or zero != 0:
            raise CalibrationError(
                f"{name} is quantized with the scale {scale} and the zero point {zero}; a calibration cache has one "
                "constant scale a tensor, and no zero point"
            )
        scales[name] = scale
    return scales


def _number(weights: Mapping[str, TensorProto], name: str) -> float | None:
    """A constant's only number; None where it has none or several, or lies outside of the graph."""
    tensor = weights.get(name)
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    values = numpy_helper.to_array(tensor)
    return float(values.reshape(-1)[0]) if values.size == 1 else None
