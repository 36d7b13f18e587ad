"""The target onnxruntime: graphs for ONNX Runtime's CPU provider, INT8 and its 8-bit cache included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from edge_runtime.bundle.manifest import Component
from engines.calibration.scales import calibrate_on_cpu
from engines.families.base import Part
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.weights import TensorSource
from engines.onnx.builder import Graph
from engines.onnx.tensors import is_inner_product, load_graph
from engines.quantize.formats.int4 import block_size_for
from engines.quantize.recipe import Precision
from engines.targets.base import Calibration, TargetOptions, component_of, stored_bytes, write_rows
from engines.targets.calibrated import as_emitted, keep_emitted, save_graph
from engines.targets.int8_cache import INT8_CACHE_SINCE, int8_specs, with_int8_cache

_CACHE_VERSION = "10.3.0"  # of TensorRT, in whose format ranges are kept
_UNSIGNED, _SIGNED = "int8.zero", "int8.signed_zero"
_ZEROS = {_UNSIGNED: np.array(128, np.uint8), _SIGNED: np.array(0, np.int8)}


class OnnxRuntimeTarget:
    """Writes a graph beside its weights; compiling is left to the runtime's own session."""

    versions: Mapping[str, str] = {}

    def __init__(self, options: TargetOptions) -> None:
        if options.kv_cache == "int8":
            from edge_runtime.backends.onnxruntime import check_version  # here, as planning takes no library

            check_version("kv_cache: int8", INT8_CACHE_SINCE)
        self._lowering = OnnxRuntimeLowering()
        self._kv_cache = options.kv_cache  # sizes are free in its graphs

    def write_component(
        self,
        directory: Path,
        part: Part,
        source: TensorSource,
        precision: Precision,
        calibration: Calibration | None = None,
    ) -> Component:
        """See :class:`engines.targets.base.Target`."""
        if part.emit is None:
            return write_rows(directory, part, source, precision)
        path = directory / f"{part.name}.onnx"
        with Graph(path) as graph:
            part.emit(graph, self._lowering, source, precision)
            files = graph.save()
        inputs, outputs = tuple(graph.inputs), tuple(graph.outputs)
        has_int8_cache = part.role == "decoder" and self._kv_cache == "int8"
        if calibration and (has_int8_cache or precision.int8):
            runner, emitted = calibration.runner, keep_emitted(path)
            model = load_graph(emitted)
            if has_int8_cache:
                model = with_int8_cache(runner, emitted, stay=precision.int8 is not None)
                inputs, outputs = int8_specs(inputs), int8_specs(outputs)
            if precision.int8:
                ranges = calibration.cache(f"{part.name}.cache")
                scales = calibrate_on_cpu(runner, emitted, ranges, _CACHE_VERSION, precision.int8.range_method)
                model = _in_int8(model, scales)
            files = (save_graph(model, path), files[1])
        elif calibration:
            calibration.runner.skip(path)
        return component_of(part, precision, files, inputs, outputs)

    def graph_of(self, directory: Path, part: Part) -> Path:
        """See :class:`engines.targets.base.Target`."""
        return as_emitted(directory / f"{part.name}.onnx")


def planned_bytes(part: Part, precision: Precision) -> int:
    """Bytes of a component's files: as stored, but for the scales of 4-bit products, which are float32."""
    return stored_bytes(part, precision, matrix_bytes if part.emit else Precision.matrix_bytes)


def matrix_bytes(precision: Precision, rows: int, columns: int) -> int:
    """Bytes of a (rows, columns) matrix in a component's files."""
    size_bytes = precision.matrix_bytes(rows, columns)
    if precision.block_size is None:
        return size_bytes
    return size_bytes + 2 * rows * -(-columns // block_size_for(columns, precision.block_size))


def _in_int8(model: onnx.ModelProto, scales: Mapping[str, float]) -> onnx.ModelProto:
    """The graph with MatMulIntegerToFloat wherever an activation meets a weight of 8 bits, or another to be rounded.

    The library makes the same of Q/DQ nodes, except where it fuses a bias first, and then computes in float32.
    What is on the left is unsigned, with 128 for zero, as processors multiply that with signed numbers on the right.
    """
    weights = {node.output[0]: node.input for node in model.graph.node if node.op_type == "DequantizeLinear"}
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}  # and with which zero

    def quantized(x: str, zero: str) -> tuple[str, str]:
        """The codes of an activation, and its scale."""
        scale, codes = f"{x}.scale", f"{x}.quantized"
        if x not in rounded:
            model.graph.initializer.append(numpy_helper.from_array(np.array(scales[x], np.float32), scale))
            nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [codes], f"{x}/QuantizeLinear"))
            rounded[x] = zero
        assert rounded[x] == zero, "no tensor is on the left of one product and on the right of another"
        return codes, scale

    for node in model.graph.node:
        at_weight = node.op_type == "MatMul" and node.input[1] in weights
        if at_weight or is_inner_product(node):
            left, scale = quantized(node.input[0], _UNSIGNED)
            right, steps = weights[node.input[1]] if at_weight else quantized(node.input[1], _SIGNED)
            inputs = [left, right, scale, steps, _UNSIGNED]
            domain = "com.microsoft"
            nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, node.output, node.name, domain=domain))
        elif node.output[0] not in weights:
            nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for name in sorted(set(rounded.values())):
        model.graph.initializer.append(numpy_helper.from_array(_ZEROS[name], name))
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model
