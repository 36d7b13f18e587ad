"""A float graph of any exporter in one form: recent operators, float32 inside, constants as weights; knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from edge_runtime.errors import CheckpointError

Array = NDArray[Any]

_OPSET = 13  # the first whose DequantizeLinear takes a scale a channel
_IR_VERSION = 8  # from 4 on weights need not be inputs too
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_LARGEST_GROWTH_BYTES = 1 << 20  # a constant that takes much more than what it is made of had better be made anew
_NOT_FOLDED = ("QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike")


def standard_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with operators of opset 13 or newer, in float32, and with every constant written out.

    Inputs and outputs keep their types: casts stand between those in float16 and the rest. What only depends on
    weights (an exporter may leave them behind Transpose, Identity or Cast) is computed, and is a weight then.

    Raises:
        CheckpointError: ONNX's converter knows no newer form of an operator.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name for tensor in result.graph.initializer}
    inputs = [value for value in result.graph.input if value.name not in weights]
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    result.ir_version = max(result.ir_version, _IR_VERSION)
    result = _in_recent_opset(result)
    _widen(result.graph)
    _fold_constants(result)
    return result


def _in_recent_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", _OPSET))
    if opset >= _OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, _OPSET)
    except Exception as error:  # it raises whatever its adapters raise
        raise CheckpointError(
            f"the graph has opset {opset}, and ONNX's converter cannot bring it to {_OPSET} ({error}); export it again "
            "with opset 17"
        ) from error
    converted.ir_version = max(converted.ir_version, _IR_VERSION)
    return converted


def _widen(graph: onnx.GraphProto) -> None:
    """Float16 and bfloat16 become float32, but for the types of inputs and outputs."""
    ends = [(value, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.output)]
    narrow = {value.name: kind for value, kind in ends if kind in _HALVES}
    if not narrow and not any(tensor.data_type in _HALVES for tensor in graph.initializer):
        return
    _widen_tensors(graph)
    inputs = {value.name for value in graph.input}
    names = {name: f"{name}.float32" for name in narrow}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    before = [_cast(name, names[name], TensorProto.FLOAT) for name in narrow if name in inputs]
    behind = [_cast(names[name], name, kind) for name, kind in narrow.items() if name not in inputs]
    _replace_nodes(graph, [*before, *graph.node, *behind])


def _widen_tensors(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _widen_tensors(inner)
    del graph.value_info[:]


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _HALVES:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{source}.cast", to=to)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Compute what only weights reach; a node that cannot be computed here stays."""
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs, made, kept = {value.name for value in graph.output}, dict[str, Array](), list[NodeProto]()
    for node in graph.node:
        inputs = {name: known[name] for name in node.input if name in known}
        values = None
        if len(inputs) == len({name for name in node.input if name}) and not outputs & set(node.output):
            values = _evaluate(node, inputs, model)
        if values is None:
            kept.append(node)
        else:
            known |= values
            made |= values
    _replace_nodes(graph, kept)
    used = {name for node in graph.node for name in node.input} | _names_inside(graph.node) | outputs
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in left]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    graph.initializer.extend(numpy_helper.from_array(made[name], name) for name in made if name in used)


def _evaluate(node: NodeProto, inputs: Mapping[str, Array], model: onnx.ModelProto) -> dict[str, Array] | None:
    """The node's outputs, where they are constants worth keeping."""
    has_graph = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    if node.domain or node.op_type in _NOT_FOLDED or has_graph:
        return None
    names = [name for name in node.output if name]
    alone = helper.make_graph(
        [node],
        "constant",
        [onnx.ValueInfoProto(name=name) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in names],
    )
    try:
        evaluator = ReferenceEvaluator(helper.make_model(alone, opset_imports=model.opset_import))
        values = [np.asarray(value) for value in evaluator.run(None, dict(inputs))]
    except Exception:  # it knows not every operator, and then the node stays as it is
        return None
    room = 2 * sum(array.nbytes for array in inputs.values()) + _LARGEST_GROWTH_BYTES
    is_constant_node = node.op_type == "Constant"
    if not is_constant_node and sum(value.nbytes for value in values) > room:
        return None
    return dict(zip(names, values, strict=True))


def _names_inside(nodes: Iterable[NodeProto]) -> set[str]:
    """What the graphs inside nodes (If, Loop) read."""
    found = set[str]()
    for node in nodes:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= {name for child in inner.node for name in child.input} | _names_inside(inner.node)
    return found


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
