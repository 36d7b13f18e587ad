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


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function without a BatchNormalization: folded into the Conv or Gemm before, or a Mul and an Add.

    Raises:
        CheckpointError: one of them is in training mode, or its statistics are no constants; nothing says how many axes
            its input has.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = _take_constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for name in [*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)]:
        readers[name] = readers.get(name, 0) + 1
    ranks = _ranks(model)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        factor, shift = _factor_and_shift(node, weights)
        maker = makers.get(node.input[0])
        if (
            maker is not None
            and maker.op_type in _FOLDS
            and readers[node.input[0]] == 1
            and all(name in weights for name in maker.input[1:] if name)
            and _FOLDS[maker.op_type](maker, node, factor, shift, weights)
        ):
            continue
        nodes += _written_out(node, factor, shift, weights, ranks.get(node.input[0]))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in copies for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items() if name in used)
    return result


def _ranks(model: onnx.ModelProto) -> Mapping[str, int]:
    """How many axes tensors have, where that can be told."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type for value in values}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


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


def _fold_conv(maker: NodeProto, node: NodeProto, factor: Array, shift: Array, weights: dict[str, Array]) -> bool:
    """Multiply the convolution's output channels, shift its bias, and let it write what the norm wrote."""
    kernel = weights[maker.input[1]]
    bias = weights[maker.input[2]] if len(maker.input) > 2 and maker.input[2] else np.zeros(len(kernel), kernel.dtype)
    spread = factor.reshape(-1, *[1] * (kernel.ndim - 1))
    _take_over(maker, node, kernel * spread, bias * factor + shift, weights)
    return True


def _fold_gemm(maker: NodeProto, node: NodeProto, factor: Array, shift: Array, weights: dict[str, Array]) -> bool:
    """The same of a fully connected layer; False where its bias is no row of numbers."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in maker.attribute}
    matrix = weights[maker.input[1]]
    has_bias = len(maker.input) > 2 and maker.input[2]
    bias = weights[maker.input[2]].reshape(-1) * attributes.get("beta", 1.0) if has_bias else np.zeros(1)
    if bias.size not in (1, len(factor)):
        return False
    spread = factor[:, None] if attributes.get("transB", 0) else factor[None, :]
    _take_over(maker, node, matrix * spread, bias * factor + shift, weights)
    for attribute in maker.attribute:
        if attribute.name == "beta":
            attribute.f = 1.0
    return True


_FOLDS = {"Conv": _fold_conv, "Gemm": _fold_gemm}


def _take_over(maker: NodeProto, node: NodeProto, weight: Array, bias: Array, weights: dict[str, Array]) -> None:
    dtype = weights[maker.input[1]].dtype
    name = f"{maker.input[1]}.folded.{node.output[0]}"  # a weight may be shared with a layer that has no norm
    weights[name], weights[f"{name}.bias"] = weight.astype(dtype), bias.astype(dtype)
    maker.input[:] = [maker.input[0], name, f"{name}.bias"]
    maker.output[0] = node.output[0]


def _written_out(
    node: NodeProto, factor: Array, shift: Array, weights: dict[str, Array], rank: int | None
) -> list[NodeProto]:
    x, y = node.input[0], node.output[0]
    if rank is None or rank < 2:
        raise CheckpointError(
            f"nothing says how many axes the input {x!r} of the BatchNormalization {node.name!r} has; export the "
            "classifier with shapes (onnx.shape_inference)"
        )
    shape, dtype = (-1, *[1] * (rank - 2)), weights[node.input[1]].dtype  # channels come second
    for part, values in (("factor", factor), ("shift", shift)):
        weights[f"{y}.{part}"] = values.reshape(shape).astype(dtype)
    return [
        helper.make_node("Mul", [x, f"{y}.factor"], [f"{y}.scaled"], name=f"{y}.scale"),
        helper.make_node("Add", [f"{y}.scaled", f"{y}.shift"], [y], name=f"{y}.add"),
    ]
