"""A checkpoint whose matrices are rounded by what calibration images make of them; knows no target and no bundle.

One part of the model at a time (a decoder layer, the whole vision encoder) is emitted at float16, and run on what the
parts before it made of the images. What is kept of a part's inputs are their products; they go when the next part is
asked for, so that memory follows the largest part, whatever the size of the model. Inputs are those of the model as it
was trained: what becomes of one matrix doesn't hang on how others are rounded.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import ImageSpec
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from engines.calibration.activation_runner import ActivationRunner
from engines.calibration.images import CalibrationImages
from engines.calibration.model import open_model_runner
from engines.checkpoint import Checkpoint
from engines.families import read_model
from engines.families.base import AS_SUGGESTED, Part, options_of
from engines.layers.folds import Fold
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.weights import QuantizedSource
from engines.onnx.builder import Graph
from engines.onnx.tensors import linear_inputs, load_graph
from engines.quantize import CALIBRATED
from engines.quantize.activation_ranges import RANGE_METHODS
from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import Int4Matrix, block_size_for, dequantize
from engines.quantize.histogram import Histogram
from engines.quantize.methods.awq import quantize_awq
from engines.quantize.methods.fold import divided, fold_into_rows, scale_columns
from engines.quantize.methods.rtn import quantize_rtn
from engines.quantize.methods.smooth import choose_smoothing
from engines.quantize.recipe import FLOAT16, Precision, PrecisionPlan
from engines.quantized_checkpoint import QuantizedMatrix

_HELD_OUT_ROWS = 256  # of the last image, spread over it
_ONE_LAYER = 1  # parameters of a group: no layer is smaller, so that each is a part of its own

_log = logging.getLogger(__name__)


@contextmanager
def open_calibrated(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    images: CalibrationImages,
    directory: Path | None = None,
    image: ImageSpec | None = None,
    schema: ReportSchema = BRIDGE,
) -> Iterator[CalibratedCheckpoint]:
    """The tensors of ``checkpoint`` for a plan with calibrated methods; scratch files lie below ``directory``.

    They are to be asked for part by part, in the model's order. Frames become images as ``image`` says; None: as they
    do unless a builder chooses. Prompt and answers are those of ``schema``.

    Raises:
        CheckpointError: it is not supported.
    """
    model = read_model(checkpoint, _ONE_LAYER, options_of(image) if image else AS_SUGGESTED, schema)
    model = replace(model, image=image or model.image)
    with (
        open_model_runner(checkpoint, model, images, directory) as runner,
        tempfile.TemporaryDirectory(prefix="rounding-", dir=directory) as folder,
    ):
        yield CalibratedCheckpoint(checkpoint, precisions, model.parts, runner, Path(folder))


class CalibratedCheckpoint:
    """Tensors in the order in which parts of the model are built, those that folded scales change as changed."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        precisions: PrecisionPlan,
        parts: Sequence[Part],
        runner: ActivationRunner,
        folder: Path,
    ) -> None:
        self._checkpoint = checkpoint
        self._precisions = precisions
        self._parts = [part for part in parts if part.emit is not None]
        self._runner = runner
        self._folder = folder
        self._walked = 0  # how many parts the images have passed
        self._part_of = {name: index for index, part in enumerate(self._parts) for name in part.parameters}
        # Of the part that was walked last:
        self._activations: dict[str, Activations] = {}  # by matrix
        self._folded: dict[str, NDArray[np.float16]] = {}  # by tensor

    def __contains__(self, name: object) -> bool:
        return name in self._checkpoint

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor of the checkpoint, or what scales folded into it made of it."""
        index = self._part_of.get(name, -1)
        if index >= self._walked and self._is_calibrated(self._parts[index]):
            self._walk_to(index)
        return self._tensor_so_far(name)

    def rounded(self, name: str, weight: NDArray[np.float16], precision: Precision) -> Int4Matrix:
        """The matrix ``weight`` (N, K), as emitters call it and stack it, by the precision's method.

        Raises:
            CheckpointError: a weight has no float16 scale.
        """
        assert precision.block_size is not None
        activations = self._activations[name]
        block_size = block_size_for(weight.shape[1], precision.block_size)
        matrix = CALIBRATED[precision.method].round(weight, block_size, activations).matrix
        warn_where_worse(name, precision.method, weight, matrix, activations)
        return matrix

    def int4(self, name: str) -> QuantizedMatrix:
        """A matrix that the checkpoint has in 4 bits.

        Raises:
            CheckpointError: another matrix' scales are to be folded into it.
        """
        self.tensor(name)  # walks to its part
        if name in self._folded:
            raise CheckpointError(
                f"{name} is quantized already, and cannot take the scales of what reads its outputs; choose a recipe "
                "that rounds the rest of its layer by rtn, fitted or gptq"
            )
        assert isinstance(self._checkpoint, QuantizedSource)
        return self._checkpoint.int4(name)

    def _is_calibrated(self, part: Part) -> bool:
        precision = self._precisions.components[part.role]
        return any(precision.of(matrix).looks_at_inputs for matrix in part.matrices)

    def _walk_to(self, index: int) -> None:
        self._activations, self._folded = {}, {}
        while self._walked < index:
            with _emitted(self._parts[self._walked], self._checkpoint, self._folder) as graph:
                self._runner.through(graph)
            self._walked += 1
        part = self._parts[index]
        precision = self._precisions.components[part.role]
        with _emitted(part, self._checkpoint, self._folder) as graph:
            self._activations = observe(self._runner, graph, lambda name: precision.of(name).looks_at_inputs)
            for fold in part.folds:
                if fold.matrix in self._activations:
                    weight = _stored_weight(graph, fold.matrix)
                    self._scale_inputs(part, fold, self._input_scales(fold, weight, precision.of(fold.matrix)))
        self._walked += 1

    def _input_scales(self, fold: Fold, weight: NDArray[np.float16], precision: Precision) -> NDArray[np.float32]:
        """What the precision's method wants a matrix' inputs to be divided by."""
        activations = self._activations[fold.matrix]
        if precision.is_smoothed:
            range_of = partial(_range_of, precision.range_method)
            return choose_smoothing(weight, activations, fold.producers, range_of).input_scales
        if not CALIBRATED[precision.method].scales_inputs:
            return np.ones(weight.shape[1], np.float32)
        assert precision.block_size is not None
        block_size = block_size_for(weight.shape[1], precision.block_size)
        return quantize_awq(weight, block_size, activations, fold.producers).input_scales

    def _scale_inputs(self, part: Part, fold: Fold, scales: NDArray[np.float32]) -> None:
        """Multiply the columns of a matrix, and divide what makes its inputs."""
        if (scales == 1).all():
            return
        self._activations[fold.matrix] = divided(self._activations[fold.matrix], scales)
        for name in part.matrices[fold.matrix]:
            self._folded[name] = scale_columns(self._tensor_so_far(name), scales)
        for name in (*fold.vectors, *([fold.rows] if fold.rows else [])):
            self._folded[name] = fold_into_rows(self._tensor_so_far(name), scales, fold.producers)

    def _tensor_so_far(self, name: str) -> NDArray[Any]:
        return self._folded[name] if name in self._folded else self._checkpoint.tensor(name)


def _range_of(method: str, values: NDArray[np.float32]) -> float:
    histogram = Histogram()
    histogram.add(values)
    return RANGE_METHODS[method](histogram)


def warn_where_worse(
    name: str, method: str, weight: NDArray[np.floating], matrix: Int4Matrix, activations: Activations
) -> None:
    """Warn where a method fitted a matrix to calibration images, and lost on the one that was held out."""
    plain = activations.held_out_error(weight - dequantize(quantize_rtn(weight, matrix.block_size)))
    error = activations.held_out_error(weight - dequantize(matrix))
    if error > plain:
        _log.warning(
            "%s: on an image that was held out, %s is %.2f times as far off as rounding to nearest; calibrate on more "
            "--images, of the kind to be inspected",
            name,
            method,
            error / plain if plain else np.inf,
        )


def activations_by_part(
    checkpoint: Checkpoint, images: CalibrationImages
) -> Iterator[tuple[Part, Mapping[str, Activations]]]:
    """Every part of the model that has a graph, and what its matrices receive, by the name emitters give them.

    Raises:
        CalibrationError: an activation is not finite, or nothing but zeros.
        SourceError: there is no image.
    """
    model = read_model(checkpoint, _ONE_LAYER)
    with (
        open_model_runner(checkpoint, model, images) as runner,
        tempfile.TemporaryDirectory(prefix="rounding-") as folder,
    ):
        for part in model.parts:
            if part.emit is not None:
                with _emitted(part, checkpoint, Path(folder)) as graph:
                    yield part, observe(runner, graph, lambda _: True)


def observe(runner: ActivationRunner, graph: Path, is_wanted: Callable[[str], bool]) -> dict[str, Activations]:
    """What the matrices of a graph receive, by their names; the runner goes behind the graph."""
    model = load_graph(graph)
    columns = {tensor.name.removesuffix(".weight"): tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    inputs = {name.removesuffix(".weight"): tensor for name, tensor in linear_inputs(model).items()}
    wanted = {name: tensor for name, tensor in inputs.items() if is_wanted(name)}
    seen = runner.through(graph, products_of={tensor: columns[name] for name, tensor in wanted.items()})
    measured = {}
    for tensor in list(seen.meters):
        meter, last = seen.meters.pop(tensor), seen.held_out.pop(tensor)
        if not meter.rows:  # there was one image, and nothing can be held out
            meter.add(last, tensor)
        rows = last.reshape(-1, last.shape[-1])
        measured[tensor] = replace(meter.finish(), held_out=rows[:: -(-len(rows) // _HELD_OUT_ROWS)])
    return {name: measured[tensor] for name, tensor in wanted.items()}


@contextmanager
def _emitted(part: Part, checkpoint: Checkpoint, folder: Path) -> Iterator[Path]:
    """The part as a float16 graph that puts out all rows, for as long as it is needed."""
    path = folder / f"{part.name}.onnx"
    assert part.emit is not None
    try:
        with Graph(path) as graph:
            part.emit(graph, OnnxRuntimeLowering(), checkpoint, FLOAT16)
            graph.save()
        path.write_bytes(_all_rows(load_graph(path)).SerializeToString())
        yield path
    finally:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _stored_weight(graph: Path, matrix: str) -> NDArray[np.float16]:
    """The matrix (N, K), as it was emitted."""
    [tensor] = (tensor for tensor in load_graph(graph).graph.initializer if tensor.name == f"{matrix}.weight")
    return np.asarray(onnx.numpy_helper.to_array(tensor, str(graph.parent)).T, np.float16)


def _all_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder's last layer computes the last row alone, as no other is read; here all of them count."""
    for node in model.graph.node:
        if node.op_type == "Slice" and node.input[1] == "ints.-1":
            node.op_type = "Identity"
            del node.input[1:]
    for value in model.graph.output:
        if value.name == "hidden_states_out":
            value.type.tensor_type.shape.dim[1].dim_param = "T"
    return model
