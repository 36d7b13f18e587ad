"""A calibration cache's scales as explicit QuantizeLinear and DequantizeLinear nodes, and back; knows no file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_runtime.errors import CalibrationError
from engines.onnx.tensors import constants, element_types, rounded_inputs

_ZERO_POINT = "int8.zero_point"


def insert_qdq(model: onnx.ModelProto, scales: Mapping[str, float], but: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with every activation of ``scales`` rounded to INT8 in products that are rounded, and only there.

    Scales of other tensors are for layers that stay in floating point, and are left out. The nodes that ``but`` names
    are passed over: those that overflow float16, which ``keep_float32`` then comes for. Where the activation is
    float16, its scale is rounded to that.

    Raises:
        CalibrationError: the graph has no such tensor, or float16 cannot hold a scale.
    """
    types, fixed = element_types(model), constants(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    if unknown := sorted(set(scales) - types.keys() - {name for node in graph.node for name in node.output}):
        raise CalibrationError(f"the graph has no tensor {unknown[0]!r}; the scales are of another graph")
    nodes: list[NodeProto] = []
    rounded: set[str] = set()
    for node in graph.node:
        names = set() if node.name in but else scales.keys() & rounded_inputs(node, fixed)
        for name in sorted(names - rounded):
            scale = _stored(name, scales[name], types.get(name, TensorProto.FLOAT))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            nodes += _pair(name)
            rounded.add(name)
        node.input[:] = [f"{name}.dequantized" if name in names else name for name in node.input]
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    if rounded and _ZERO_POINT not in fixed:
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), _ZERO_POINT))
    return result


def _pair(name: str) -> list[NodeProto]:
    scale, quantized = f"{name}.scale", f"{name}.quantized"
    inputs, outputs = ([name, scale, _ZERO_POINT], [quantized, scale, _ZERO_POINT]), (quantized, f"{name}.dequantized")
    operators = ("QuantizeLinear", "DequantizeLinear")
    return [
        helper.make_node(operator, read, [written], name=f"{written}.node")
        for operator, read, written in zip(operators, inputs, outputs, strict=True)
    ]


def _stored(name: str, scale: float, dtype: int) -> NDArray[Any]:
    if dtype != TensorProto.FLOAT16:
        return np.array(scale, np.float32)
    with np.errstate(over="ignore"):
        stored = np.array(scale, np.float16)
    if not np.isfinite(stored):
        raise CalibrationError(f"the scale {scale} of {name} exceeds float16; keep what reads it in float32")
    return np.asarray(np.maximum(stored, np.finfo(np.float16).smallest_subnormal))
