"""BatchNormalization folded into what comes before it; knows ONNX graphs, and no model in particular.

While it infers, a BatchNorm multiplies and shifts each channel. Rounding the convolution before without that would
round numbers that nobody multiplies by: fold first, then quantize.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edge_runtime.errors import CheckpointError

Array = NDArray[Any]

_FOLDABLE = ("Conv",)


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function without a BatchNormalization: folded into the convolution before, or a Mul and an Add.

    Raises:
        CheckpointError: one of them is in training mode, or its statistics are no constants.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = _take_constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for name in [*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)]:
        readers[name] = readers.get(name, 0) + 1
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        factor, shift = _factor_and_shift(node, weights)
        maker = makers.get(node.input[0])
        if (
            maker is not None
            and maker.op_type in _FOLDABLE
            and readers[node.input[0]] == 1
            and maker.input[1] in weights
        ):
            _fold(maker, node, factor, shift, weights)
        else:
            nodes += _written_out(node, factor, shift, weights)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in copies for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items() if name in used)
    return result


def _take_constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """Constants by name; nodes that only make one go, as exporters write equal weights once and pass them on."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs, kept = {value.name for value in graph.output}, []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in found and node.output[0] not in outputs:
            found[node.output[0]] = found[node.input[0]]
        elif node.op_type == "Constant" and node.attribute[0].name == "value" and node.output[0] not in outputs:
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        else:
            kept.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _factor_and_shift(node: NodeProto, weights: Mapping[str, Array]) -> tuple[Array, Array]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("training_mode", 0) or not all(name in weights for name in node.input[1:5]):
        raise CheckpointError(
            f"the BatchNormalization {node.name!r} is in training mode, or its statistics are no constants; export the "
            "classifier for inference (model.eval())"
        )
    scale, bias, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:5])
    factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def _fold(maker: NodeProto, node: NodeProto, factor: Array, shift: Array, weights: dict[str, Array]) -> None:
    """Multiply the convolution's output channels, shift its bias, and let it write what the norm wrote."""
    name = f"{maker.input[1]}.folded.{node.output[0]}"  # a weight may be shared with a convolution that has no norm
    kernel = weights[maker.input[1]]
    weights[name] = (kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))).astype(kernel.dtype)
    bias = weights[maker.input[2]] if len(maker.input) > 2 else np.zeros(len(kernel), kernel.dtype)
    weights[f"{name}.bias"] = (bias * factor + shift).astype(kernel.dtype)
    maker.input[:] = [maker.input[0], name, f"{name}.bias"]
    maker.output[0] = node.output[0]


def _written_out(node: NodeProto, factor: Array, shift: Array, weights: dict[str, Array]) -> list[NodeProto]:
    x, y = node.input[0], node.output[0]
    shape = (-1, 1, 1)  # channels come second, and of the rest there are two
    for part, values in (("factor", factor), ("shift", shift)):
        weights[f"{y}.{part}"] = values.reshape(shape).astype(np.float32)
    return [
        helper.make_node("Mul", [x, f"{y}.factor"], [f"{y}.scaled"], name=f"{y}.scale"),
        helper.make_node("Add", [f"{y}.scaled", f"{y}.shift"], [y], name=f"{y}.add"),
    ]
