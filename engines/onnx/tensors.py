"""What an ONNX graph calls its tensors, and which of them meet a weight; changes nothing and runs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

from edge_runtime.bundle.opening import sha256_of_file
from edge_runtime.errors import CalibrationError

# What attention multiplies between its matrices, queries with keys and a softmax with values, is called as a matrix is:
# vision_tower.vision_model.encoder.layers.0.self_attn.products. No wildcard alone reaches it, as recipes that round all
# matrices keep it.
PRODUCTS = "products"

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators whose first input meets a weight in the second.
LINEAR_OPERATORS = ("MatMul", "Gemm", "Conv", "MatMulNBits", "MatMulInt4", "MatMulFloat16")


def load_graph(path: Path) -> onnx.ModelProto:
    """The graph without its weights, which stay in the file beside it.

    Raises:
        CalibrationError: the file cannot be read.
    """
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's exceptions are not exported
        raise CalibrationError(f"{path} is no ONNX graph that can be read: {error}; build it again") from error


def sha256_of_graph(path: Path) -> str:
    """A hash of the graph and of the weights beside it.

    Raises:
        CalibrationError: a file cannot be read.
    """
    tensors = load_graph(path).graph.initializer
    beside = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    try:
        hashes = [sha256_of_file(path.with_name(name)) for name in (path.name, *sorted(beside))]
    except OSError as error:
        raise CalibrationError(f"the weights of {path} cannot be read: {error}; build it again") from error
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def constants(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that no input reaches, each with the first weight that it is made from; shapes' numbers included."""
    found = {tensor.name: tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if all(name in found for name in inputs):
            found.update((name, found[inputs[0]] if inputs else name) for name in node.output)
    return found


def linear_inputs(model: onnx.ModelProto) -> dict[str, str]:
    """For every weight that a matrix product or convolution takes, the activation that meets it there, by name."""
    fixed = constants(model)
    return {
        fixed[node.input[1]]: node.input[0]
        for node in model.graph.node
        if node.op_type in LINEAR_OPERATORS and node.input[1] in fixed and node.input[0] not in fixed
    }


def products_of_others(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply by a weight which is not stored in 8 bits."""
    fixed, types = constants(model), {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in LINEAR_OPERATORS
        and node.input[1] in fixed
        and types.get(fixed[node.input[1]]) != TensorProto.INT8
    ]


def is_inner_product(node: NodeProto) -> bool:
    """Whether a node is a product of two activations that is to be rounded: emitters name those."""
    return node.op_type == "MatMul" and f".{PRODUCTS}." in node.output[0]


def rounded_inputs(node: NodeProto, fixed: Collection[str]) -> list[str]:
    """The activations of a node that INT8 rounds; ``fixed`` are the graph's constants."""
    if is_inner_product(node):
        return list(node.input)
    at_weight = node.op_type in LINEAR_OPERATORS and node.input[1] in fixed and node.input[0] not in fixed
    return [node.input[0]] if at_weight else []


def tensors_in_products(model: onnx.ModelProto) -> list[str]:
    """Activations that INT8 rounds, what comes of them, and the sum of that and its bias, in order of appearance.

    TensorRT computes a layer in INT8 only where it has ranges for both sides of it.
    """
    fixed, names, products = constants(model), dict[str, None](), set[str]()
    for node in model.graph.node:
        inputs = list(node.input)
        if rounded := rounded_inputs(node, fixed):
            names |= dict.fromkeys((*rounded, node.output[0]))
            products.add(node.output[0])
        elif node.op_type == "Add" and products & set(inputs) and fixed.keys() & set(inputs):
            names[node.output[0]] = None
    return list(names)


def activation_names(model: onnx.ModelProto) -> list[str]:
    """Tensors of a floating type that depend on an input, the inputs themselves included, in order of appearance.

    Results of operators that are not ONNX's own have no known type, and are left out.
    """
    fixed, types = constants(model), element_types(model)
    inputs = [value.name for value in model.graph.input]
    names = inputs + [name for node in model.graph.node for name in node.output if name]
    return [name for name in names if name not in fixed and types.get(name) in _FLOATS]


def element_types(model: onnx.ModelProto) -> Mapping[str, int]:
    """ONNX's number of the element type of every tensor that has a known one."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
