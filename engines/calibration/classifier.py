"""Any ONNX classifier in INT8: BatchNorm folded, weights by channel, activations calibrated, the head left alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.errors import BuildError, CalibrationError, CheckpointError
from edge_runtime.vision.image_processors import squeeze
from engines.calibration.observe import open_observed
from engines.onnx.batch_norm import fold_batch_norms
from engines.onnx.qdq import insert_qdq
from engines.onnx.tensors import LINEAR_OPERATORS, linear_inputs
from engines.quantize.activation_ranges import LEVELS, RANGE_METHODS, scale_of_range

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BILINEAR = 2  # Pillow's number


@dataclass(frozen=True)
class QuantizedClassifier:
    """A classifier as it was written."""

    path: Path
    int8_layers: int
    float32_layers: tuple[str, ...]  # names of nodes: the head
    size_bytes: int


def quantize_classifier(
    source: Path,
    frames: Iterable[NDArray[np.uint8]],
    out: Path,
    *,
    method: str = "percentile",  # of those in ranges.py, the nearest to float32 on the reference classifier
    per_tensor: bool = False,
) -> QuantizedClassifier:
    """Write the classifier at ``source`` to ``out`` with explicit INT8 (QuantizeLinear and DequantizeLinear nodes).

    Ranges of activations are found on ``frames``, which are resized to the input and normalized as for ImageNet.
    Weights get a scale for each output channel, or one for all with ``per_tensor``. The last product with a weight,
    the head, stays float32: it is small, and its outputs are what is compared.

    Raises:
        CheckpointError: the file is no classifier of images, or has a BatchNorm that cannot be folded.
        CalibrationError: an activation is not finite, or there is no such method.
        BuildError: ``out`` cannot be written.
    """
    if method not in RANGE_METHODS:
        raise CalibrationError(f"there is no method {method!r}; there are {', '.join(RANGE_METHODS)}")
    model = fold_batch_norms(_load(source))
    spec, name = _preprocessing(model)
    inputs = linear_inputs(model)
    linear = [node for node in model.graph.node if node.op_type in LINEAR_OPERATORS and node.input[1] in inputs]
    if len(linear) < 2:
        raise CheckpointError(f"{source} has {len(linear)} layers with weights; expected a classifier with two or more")
    *layers, head = linear
    names = list(dict.fromkeys(node.input[0] for node in layers))
    with tempfile.TemporaryDirectory(prefix="classifier-") as folder:
        path = Path(folder, "folded.onnx")
        path.write_bytes(model.SerializeToString())
        with open_observed(path, histograms_of=names) as (engine, observation):
            for frame in frames:
                sample = {name: squeeze(frame, spec)}
                observation.add({**sample, **engine.evaluate(sample)})
    scales = {n: scale_of_range(RANGE_METHODS[method](seen)) for n, seen in observation.histograms.items()}
    for node in layers:
        if not node.name:
            node.name = f"{node.output[0]}.node"
    if not head.name:
        head.name = f"{head.output[0]}.node"
    result = _round_weights(insert_qdq(model, scales, but=[head.name]), {node.name for node in layers}, per_tensor)
    onnx.checker.check_model(result)
    try:
        out.write_bytes(result.SerializeToString(deterministic=True))
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error}; choose another --out") from error
    return QuantizedClassifier(out, len(layers), (head.name,), out.stat().st_size)


def _load(source: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(source))
    except Exception as error:  # protobuf's exceptions are not exported
        raise CheckpointError(f"{source} is no ONNX graph that can be read: {error}") from error


def _preprocessing(model: onnx.ModelProto) -> tuple[PixelSpec, str]:
    """How frames become the graph's only input, and what that is called."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or not all(shapes[0][2:]):
        raise CheckpointError(f"the graph reads inputs of shapes {shapes}; expected one image, (N, 3, height, width)")
    height, width = shapes[0][2:]
    spec = PixelSpec(height, width, _BILINEAR, 1 / 255, IMAGENET_MEAN, IMAGENET_STD)
    return spec, inputs[0].name


def _round_weights(model: onnx.ModelProto, layers: set[str], per_tensor: bool) -> onnx.ModelProto:
    """The weights of ``layers``, by the nodes' names, as INT8 behind a DequantizeLinear."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.name in layers:
            weight = numpy_helper.to_array(weights[node.input[1]])
            axis = _output_axis(node)
            others = None if per_tensor else tuple(i for i in range(weight.ndim) if i != axis)
            largest = np.abs(weight).max(axis=others)
            scale = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
            spread = scale if per_tensor else scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
            codes = np.clip(np.rint(weight / spread), -LEVELS, LEVELS).astype(np.int8)
            name = f"{node.name}.weight"
            for part, array in (("int8", codes), ("scale", scale), ("zero", np.zeros(scale.shape, np.int8))):
                graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{name}.{part}"))
            read = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
            attributes = {} if per_tensor else {"axis": axis}
            nodes.append(helper.make_node("DequantizeLinear", read, [name], name=f"{name}.node", **attributes))
            node.input[1] = name
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in copies for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(kept)
    return model


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of a weight that counts the outputs."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1
