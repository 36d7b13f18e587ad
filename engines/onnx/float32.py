"""Float16 graphs made wider: wholly, to be observed, or at named nodes, where float16 would overflow."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import NodeProto, TensorProto, helper

from edge_runtime.backends.native import DOMAIN
from edge_runtime.errors import CalibrationError
from engines.onnx.tensors import element_types

_WIDE = ".float32"
_TWIN = ".as_float32"  # another ending, as a graph with nodes kept in float32 can have a twin too


def float32_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph computed in float32: tensors and nodes keep their names, and float16 weights their place.

    Operators for AMX compute in float32 already, and go on reading the float16 that they are made for.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    kept = {name for node in graph.node if node.domain == DOMAIN for name in (*node.input, *node.output)}
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16 and value.name not in kept:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16} - kept
    for node in graph.node:
        _widen_cast(node)
        node.input[:] = [name + _TWIN if name in weights else name for name in node.input]
    casts = [_cast(name, name + _TWIN, TensorProto.FLOAT) for name in sorted(weights)]
    _replace_nodes(graph, [*casts, *graph.node])
    return twin


def keep_float32(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """A float16 graph whose ``nodes``, by name, compute in float32; between two of them nothing is rounded.

    Names of tensors and nodes stay; casts are added around.

    Raises:
        CalibrationError: there is no such node.
    """
    types, wide = element_types(model), set(nodes)
    if unknown := sorted(wide - {node.name for node in model.graph.node}):
        raise CalibrationError(f"the graph has no node {unknown[0]!r} to be kept in float32; the names are another's")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    narrow_uses = {name for node in graph.node if node.name not in wide for name in node.input}
    narrow_uses |= {value.name for value in graph.output}
    rewritten: list[NodeProto] = []
    widened: set[str] = set()
    for node in graph.node:
        rewritten.append(node)
        if node.name not in wide:
            continue
        halves = {name for name in (*node.input, *node.output) if types.get(name) == TensorProto.FLOAT16}
        for name in sorted(halves & set(node.input) - widened):
            rewritten.insert(-1, _cast(name, name + _WIDE, TensorProto.FLOAT))
        _widen_cast(node)
        node.input[:] = [name + _WIDE if name in halves else name for name in node.input]
        written = [name for name in node.output if name in halves]
        node.output[:] = [name + _WIDE if name in halves else name for name in node.output]
        rewritten += [_cast(name + _WIDE, name, TensorProto.FLOAT16) for name in written if name in narrow_uses]
        widened |= halves
    _replace_nodes(graph, rewritten)
    del graph.value_info[:]
    return result


def _widen_cast(node: NodeProto) -> None:
    """Make a cast to float16 one to float32."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=to)


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
