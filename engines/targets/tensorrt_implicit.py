"""The implicit route to INT8, which ended with TensorRT 10: a calibrator gives ranges, and TensorRT chooses the types.

It chooses among what it is allowed: INT8 where an activation meets a weight, and everywhere else what the graph says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import onnx

from engines.onnx.tensors import constants, is_inner_product
from engines.targets.tensorrt_compiler import Configure, Shape, make_profile


def allow_int8(
    trt: Any, model: onnx.ModelProto, shapes: Mapping[str, Shape], calibrator: Any, is_int8: Callable[[str], bool]
) -> Configure:
    """What makes a network of ``model`` INT8 where it meets those weights that ``is_int8``, by their matrices' names.

    ``shapes`` are those of its inputs in calibration, ``calibrator`` an ``IInt8EntropyCalibrator2``.
    """

    def configure(builder: Any, network: Any, config: Any) -> None:
        for flag in (
            trt.BuilderFlag.FP16,
            trt.BuilderFlag.INT8,
            trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS,
        ):
            config.set_flag(flag)
        config.int8_calibrator = calibrator
        free = {value.name for value in model.graph.input if any(d.dim_param for d in value.type.tensor_type.shape.dim)}
        if free:
            config.set_calibration_profile(make_profile(builder, {name: (shapes[name],) * 3 for name in sorted(free)}))
        _keep_types(trt, network, rounded_nodes(model, is_int8))

    return configure


def rounded_nodes(model: onnx.ModelProto, is_int8: Callable[[str], bool]) -> set[str]:
    """Names of the nodes that may be INT8: products with those weights, sums with their biases, and inner products."""
    fixed, names, products = constants(model), set[str](), set[str]()
    for node in model.graph.node:
        inputs = set(node.input)
        at_weight = node.op_type == "MatMul" and node.input[0] not in fixed and node.input[1] in fixed
        if is_inner_product(node):
            names.add(node.name)
        elif at_weight and is_int8(fixed[node.input[1]].removesuffix(".weight")):
            names.add(node.name)
            products.add(node.output[0])
        elif node.op_type == "Add" and products & inputs and fixed.keys() & inputs:
            names.add(node.name)
    return names


def _keep_types(trt: Any, network: Any, but: Collection[str]) -> None:
    """Have every layer of floating point compute in the type that its outputs have, ``but`` those of these names."""
    kept = (trt.DataType.HALF, trt.DataType.FLOAT)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in but or layer.type == trt.LayerType.CAST:  # a cast's types are its own
            continue
        types = [layer.get_output(output).dtype for output in range(layer.num_outputs)]
        if types and all(dtype in kept for dtype in types):
            layer.precision = types[0]
            for output, dtype in enumerate(types):
                layer.set_output_type(output, dtype)
