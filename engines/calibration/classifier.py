"""Any ONNX classifier in INT8: BatchNorm folded, weights by channel, activations calibrated, the head left alone."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.errors import BackendError, BuildError, CalibrationError, CheckpointError
from edge_runtime.vision.image_processors import squeeze
from engines.calibration.observe import open_observed
from engines.families.base import Settings
from engines.onnx.batch_norm import fold_batch_norms
from engines.onnx.qdq import insert_qdq
from engines.onnx.standard_form import standard_form
from engines.onnx.tensors import LINEAR_OPERATORS, constants, linear_inputs
from engines.quantize.activation_ranges import LEVELS, RANGE_METHODS, scale_of_range

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BILINEAR = 2  # Pillow's number


_DTYPES: Mapping[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.UINT8: np.dtype(np.uint8),
}
_SMALL = 4096  # numbers of a weight that nobody misses in INT8
_AGREEMENT = 1e-2  # by how much folding may move an output, of the largest


@dataclass(frozen=True)
class PixelScale:
    """What a classifier's input is of a pixel from 0 to 255: ``(pixel * rescale_factor - mean) / std``, in RGB."""

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


PIXEL_SCALES: Mapping[str, PixelScale] = {
    "imagenet": PixelScale(1 / 255, IMAGENET_MEAN, IMAGENET_STD),
    "unit": PixelScale(1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw": PixelScale(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
PROCESSOR_NAME = "preprocessor_config.json"


@dataclass(frozen=True)
class QuantizedClassifier:
    """A classifier as it was written, and as it was run."""

    path: Path
    int8_layers: int
    float32_layers: Mapping[str, str]  # names of nodes that keep a weight in float32, each with the reason
    float32_bytes: int  # of those weights
    size_bytes: int


def find_pixel_scale(source: Path, said: str | None) -> PixelScale:
    """The scale of that name, of a ``preprocessor_config.json`` at that path, or of the one beside ``source``.

    Raises:
        CheckpointError: nothing is said, nothing lies there, or it cannot be understood.
    """
    if said is not None and said in PIXEL_SCALES:
        return PIXEL_SCALES[said]
    path = Path(said) if said else source.with_name(PROCESSOR_NAME)
    choices = (
        "say --preprocessing imagenet (0 to 1, then by ImageNet's mean and deviation), unit (0 to 1), raw (0 to 255, "
        f"also where the graph normalizes by itself), or a {PROCESSOR_NAME}"
    )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = f"there is no preprocessing {said!r}" if said else f"nothing says what {source.name} takes for pixels"
        raise CheckpointError(f"{missing}; {choices}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); {choices}") from error
    settings = Settings(document if isinstance(document, dict) else {}, str(path))
    rescales, normalizes = settings.flag("do_rescale", True), settings.flag("do_normalize", True)
    if normalizes and not {"image_mean", "image_std"} <= settings.values.keys():
        raise CheckpointError(f"{path} says neither image_mean and image_std nor do_normalize false; {choices}")
    plain = PIXEL_SCALES["raw"]
    return PixelScale(
        settings.number("rescale_factor", 1 / 255) if rescales else 1.0,
        settings.numbers("image_mean", IMAGENET_MEAN) if normalizes else plain.mean,
        settings.positive_numbers("image_std", IMAGENET_STD) if normalizes else plain.std,
    )


def quantize_classifier(
    source: Path,
    frames: Iterable[NDArray[np.uint8]],
    out: Path,
    *,
    pixels: PixelScale,
    method: str = "percentile",  # of those in ranges.py, the nearest to float32 on the reference classifier
    per_tensor: bool = False,
) -> QuantizedClassifier:
    """Write the classifier at ``source`` to ``out`` with explicit INT8 (QuantizeLinear and DequantizeLinear nodes).

    Graphs of old opsets are converted, those in float16 compute in float32 around their INT8 layers. Ranges of
    activations are found on ``frames``, which are resized to the input and scaled as ``pixels`` says; the file says so
    too (``preprocessing`` of its metadata). Weights get a scale for each output channel, or one for all with
    ``per_tensor``. The last product with a weight, the head, stays float32: it is small, and its outputs are what is
    compared. What is written is loaded and run before it takes its name.

    Raises:
        CheckpointError: the file is no classifier of images, has a BatchNorm that cannot be folded or an operator that
            cannot be converted, or is another function afterwards.
        CalibrationError: an activation is not finite, there is no image, or no such method.
        BuildError: ``out`` cannot be written, or what was written does not run.
    """
    if method not in RANGE_METHODS:
        raise CalibrationError(f"there is no method {method!r}; there are {', '.join(RANGE_METHODS)}")
    original = _load(source)
    spec, name, dtype = _preprocessing(original, pixels)
    grey = squeeze(np.full((spec.height, spec.width, 3), 127, np.uint8), spec)
    model = fold_batch_norms(standard_form(original))
    expected = _run_original(source, {name: grey.astype(dtype)})
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = linear_inputs(model)
    for node in model.graph.node:
        node.name = node.name or f"{node.output[0]}.node"
    linear = [node for node in model.graph.node if node.op_type in LINEAR_OPERATORS and node.input[1] in inputs]
    linear = [node for node in linear if node.input[1] in weights and len(weights[node.input[1]].dims) > 1]
    if len(linear) < 2:
        raise CheckpointError(f"{source} has {len(linear)} layers with weights; expected a classifier with two or more")
    *layers, head = linear
    kept, kept_bytes = _kept(model, {node.name for node in layers}, head.name)
    names = list(dict.fromkeys(node.input[0] for node in layers))
    first: NDArray[Any] | None = None
    with tempfile.TemporaryDirectory(prefix="classifier-") as folder:
        path = Path(folder, "folded.onnx")
        path.write_bytes(model.SerializeToString())
        _check_same_function(source, expected, _run(path, {name: grey.astype(dtype)}))
        with open_observed(path, histograms_of=names) as (engine, observation):
            for frame in frames:
                sample = squeeze(frame, spec)
                sample = sample.astype(np.uint8 if dtype == np.uint8 else np.float32)
                observation.add({name: sample, **engine.evaluate({name: sample})})
                first = sample if first is None else first
        if first is None:
            raise CalibrationError("there is no image to calibrate on; give another --images")
        seen = {name: first.astype(dtype)}
        _check_same_function(source, _run_original(source, seen), _run(path, seen))
    scales = {n: scale_of_range(RANGE_METHODS[method](histogram)) for n, histogram in observation.histograms.items()}
    result = _round_weights(insert_qdq(model, scales, but=[head.name]), {node.name for node in layers}, per_tensor)
    result.metadata_props.add(key="preprocessing", value=json.dumps(asdict(pixels)))
    _write_checked(result, out, seen)
    return QuantizedClassifier(out, len(layers), kept, kept_bytes, out.stat().st_size)


def _kept(model: onnx.ModelProto, layers: Collection[str], head: str) -> tuple[dict[str, str], int]:
    """Nodes that keep a weight in float32, each with the reason, the head first; and the bytes of those weights."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    fixed = constants(model)
    kept, bytes_of = {head: "the head"}, dict[str, int]()
    for node in model.graph.node:
        read = [name for name in node.input if name in weights and math.prod(weights[name].dims) >= _SMALL]
        made = [name for name in node.input[1:2] if name in fixed and name not in weights]
        if node.name not in layers:
            bytes_of |= {name: 4 * math.prod(weights[name].dims) for name in read}
        if node.name in layers or node.name == head or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type in LINEAR_OPERATORS and made:
            maker = next((other.op_type for other in model.graph.node if made[0] in other.output), "another node")
            kept[node.name] = f"its weight comes out of {maker}"
        elif read and node.op_type in LINEAR_OPERATORS:
            kept[node.name] = "its weight is its first input"
        elif read and any(len(weights[name].dims) > 1 for name in read):
            kept[node.name] = f"{node.op_type} is not rounded"
    return kept, sum(bytes_of.values())


def _run_original(source: Path, sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    try:
        return _run(source, sample)
    except BackendError as error:
        raise CheckpointError(f"{source} cannot be run: {error}") from error


def _check_same_function(source: Path, expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> None:
    """Compare the graph that is to be rounded with the one that was given."""
    for name, values in expected.items():
        wide, ours = values.astype(np.float64), found[name].astype(np.float64)
        if not np.isfinite(ours).all() or np.abs(wide - ours).max() > _AGREEMENT * max(np.abs(wide).max(), 1e-6):
            raise CheckpointError(
                f"{name} of {source} is another one once opsets are converted and norms folded: a fault of ONNX's "
                "converter, or of this program; export the classifier with opset 17 and without training nodes"
            )


def _run(path: Path, sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    engine = OnnxRuntimeBackend().load(path)
    try:
        return engine.evaluate(sample)
    finally:
        engine.close()


def _write_checked(model: onnx.ModelProto, out: Path, sample: Mapping[str, NDArray[Any]]) -> None:
    """Write the file under another name, load and run it, and give it its own."""
    temporary = out.with_name(f"{out.name}.partial")
    try:
        try:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(temporary))
            outputs = _run(temporary, sample)
            if wrong := [name for name, values in outputs.items() if not np.isfinite(values).all()]:
                raise BuildError(f"{out} was written and gives {wrong[0]} that is not finite; try more --images")
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, BuildError):
            raise
        raise BuildError(f"cannot write {out}: {error}; choose another --out") from error
    except (BackendError, onnx.checker.ValidationError) as error:
        raise BuildError(f"what was written does not run, so it was removed: {error}; keep the float graph") from error


def _load(source: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(source))
    except Exception as error:  # protobuf's exceptions are not exported
        raise CheckpointError(f"{source} is no ONNX graph that can be read: {error}") from error


def _preprocessing(model: onnx.ModelProto, pixels: PixelScale) -> tuple[PixelSpec, str, np.dtype[Any]]:
    """How frames become the graph's only input, what that is called, and its type."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or not all(shapes[0][2:]):
        raise CheckpointError(f"the graph reads inputs of shapes {shapes}; expected one image, (N, 3, height, width)")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise CheckpointError(
            f"the graph reads {TensorProto.DataType.Name(kind)}; expected float32, float16 or uint8: export it so"
        )
    if kind == TensorProto.UINT8 and pixels != PIXEL_SCALES["raw"]:
        raise CheckpointError("the graph reads whole numbers from 0 to 255; say --preprocessing raw")
    height, width = shapes[0][2:]
    name = str(inputs[0].name)
    scale = (pixels.rescale_factor, pixels.mean, pixels.std)
    return PixelSpec(height, width, _BILINEAR, *scale), name, _DTYPES[kind]


def _round_weights(model: onnx.ModelProto, layers: set[str], per_tensor: bool) -> onnx.ModelProto:
    """The weights of ``layers``, by the nodes' names, as INT8 behind a DequantizeLinear."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.name in layers:
            weight = numpy_helper.to_array(weights[node.input[1]])
            axis = _output_axis(node) % weight.ndim
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
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return 0 if node.op_type == "Conv" else -1
