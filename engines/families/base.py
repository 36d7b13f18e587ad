"""What a family tells the builder of a model: its sizes, its texts, and its components with their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from edge_runtime.bundle.manifest import CoordinateSpec, ImageSpec, ModelSpec, NativeImage, PositionSpec, PromptSpec
from edge_runtime.bundle.report_schema import AskedSchema
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.report import REGION_STEPS
from edge_runtime.reports.schema import BRIDGE
from engines.checkpoint import Checkpoint
from engines.layers.folds import Fold, folds_under, with_known_vectors
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter, under
from engines.layers.weights import TensorSource, Weights
from engines.onnx.builder import Graph
from engines.quantize.recipe import Precision

_FLOATS = tuple(map(np.dtype, ("<f8", "<f4", "<f2", ml_dtypes.bfloat16)))
_BRIDGE = AskedSchema(BRIDGE, None)
_LARGEST_SIZE = 1 << 24  # no width, depth or vocabulary of a model is larger


@dataclass(frozen=True)
class Part:
    """A component to be built: which tensors it takes, and how its graph is emitted."""

    name: str
    role: str  # one of edge_runtime.bundle.manifest.ROLES
    layers: tuple[int, int] | None  # [first, end) of a decoder group
    parameters: Mapping[str, Parameter]  # by the tensor's name in the checkpoint
    emit: Callable[[Graph, OpLowering, TensorSource, Precision], None] | None  # None: an embedding has no graph
    folds: tuple[Fold, ...] = ()  # in an order in which scales can be chosen: what is divided is rounded later
    products: tuple[str, ...] = ()  # what recipes call products of two activations, which may be rounded too

    @property
    def matrices(self) -> dict[str, tuple[str, ...]]:
        """The engine's matrices, each with the checkpoint's tensors that are stacked to it, in order."""
        found: dict[str, tuple[str, ...]] = {}
        for name, parameter in self.parameters.items():
            if parameter.is_matrix:
                found[parameter.matrix] = (*found.get(parameter.matrix, ()), name)
        return found


class Declared(Protocol):
    """A component of declared layers; names are those of the checkpoint below a prefix."""

    def parameters(self) -> dict[str, Parameter]:
        """Its tensors."""

    def folds(self) -> Iterator[Fold]:
        """Where scales of its matrices' input channels can go."""

    def products(self) -> tuple[str, ...]:
        """What recipes call products of two activations in it."""

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """Its graph."""


def part_of(
    checkpoint: Checkpoint,
    name: str,
    declared: Declared,
    prefix: str = "",
    *,
    role: str | None = None,
    layers: tuple[int, int] | None = None,
) -> Part:
    """A component of ``checkpoint``, whose tensors' names begin with ``prefix``; its role is its name unless given.

    Biases that the layers do not declare and the checkpoint has are taken along: LLaMA's kin differ in those.
    """
    parameters = under(prefix, declared.parameters())
    biases = {name.removesuffix("weight") + "bias": p for name, p in parameters.items() if p.is_matrix}
    parameters |= {name: Parameter(p.shape[:1], layer=p.layer) for name, p in biases.items() if name in checkpoint}
    return Part(
        name,
        role or name,
        layers,
        parameters,
        lambda graph, lowering, source, precision: declared.emit(graph, lowering, Weights(source, precision, prefix)),
        with_known_vectors(folds_under(prefix, declared.folds()), checkpoint),
        tuple(prefix + name for name in declared.products()),
    )


@dataclass(frozen=True)
class ImageOptions:
    """What a builder may choose of how frames become images."""

    fit: str | None = None  # one of edge_runtime.bundle.manifest.FITS; None: as the checkpoint's processor suggests
    frames: tuple[tuple[int, int], ...] = ()  # widths and heights of the cameras' frames; none: any
    tiles: int | None = None  # that a frame is cut into at most; None: as the family does on the edge


AS_SUGGESTED = ImageOptions()


def options_of(image: ImageSpec) -> ImageOptions:
    """Options by which a family builds a vision encoder for pictures as ``image`` has them, in the same grids."""
    if not isinstance(image, NativeImage):
        return AS_SUGGESTED  # its vision encoder is the same for all
    height, width = image.merge * image.pixels.height, image.merge * image.pixels.width
    return ImageOptions(frames=tuple((columns * width, rows * height) for rows, columns in image.grids))


@dataclass(frozen=True)
class VisionWork:
    """What seeing one image takes, in all its tiles."""

    rows: int  # patches and class tokens
    at_a_time: tuple[int, int]  # rows that the encoder sees in one run, and their width
    attention_operations: int  # beside the products with weights; a multiplication and an addition are two
    deepstack: tuple[tuple[int, int], ...] = ()  # rows and width of each map that the encoder puts out beside features


@dataclass(frozen=True)
class Model:
    """A checkpoint as its family understands it."""

    family: str
    spec: ModelSpec
    image: ImageSpec
    prompt: PromptSpec
    positions: PositionSpec
    parts: tuple[Part, ...]
    vision: VisionWork
    coordinates: CoordinateSpec = field(default=CoordinateSpec(REGION_STEPS))
    image_cache_numbers: int = 0  # keys and values of the image alone, in layers that see nothing else
    only_planned: str = ""  # why it cannot be built
    asked: AskedSchema = _BRIDGE  # what reports are to say, and the prompt's words that ask for it


def check_parameters(checkpoint: Checkpoint, model: Model) -> None:
    """Compare every tensor that the model needs with the checkpoint.

    Raises:
        CheckpointError: one is missing, has another shape than the settings say, or holds no floating numbers.
    """
    for part in model.parts:
        for name, parameter in part.parameters.items():
            if name not in checkpoint:
                raise CheckpointError(f"{checkpoint.name} holds no tensor {name!r}; is it the whole checkpoint?")
            if (found := checkpoint.shape(name)) != parameter.shape:
                raise CheckpointError(
                    f"{name} of {checkpoint.name} has the shape {list(found)}, and its config.json says "
                    f"{list(parameter.shape)}; the two don't belong together"
                )
            if (dtype := checkpoint.dtype(name)) not in _FLOATS:
                raise CheckpointError(
                    f"{name} of {checkpoint.name} is stored as {dtype}: codes of a quantized weight, whose meaning is "
                    "another library's; take the model that it was quantized from"
                )


@dataclass(frozen=True)
class Settings:
    """A part of ``config.json``; fields that it leaves out have the architecture's defaults."""

    values: Mapping[str, Any]
    where: str = "config.json"

    def below(self, key: str) -> Settings:
        """The settings nested under ``key``, empty where there are none."""
        values = self.values.get(key) or {}
        if not isinstance(values, Mapping):
            raise self._wrong(key, "an object")
        return Settings(values, f"{self.where}: {key}")

    def size(self, key: str, default: int) -> int:
        """A positive integer."""
        value = self._get(key, default)
        if type(value) is not int or not 0 < value <= _LARGEST_SIZE:
            raise self._wrong(key, "a positive integer")
        return value

    def integer(self, key: str, default: int) -> int:
        """An integer of any sign."""
        value = self._get(key, default)
        if type(value) is not int:
            raise self._wrong(key, "an integer")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self._wrong(key, "a positive number")
        return float(value)

    def numbers(
        self, key: str, default: tuple[float, ...], above: float = float("-inf"), kind: str = "finite"
    ) -> tuple[float, ...]:
        """A list as long as ``default``, of finite numbers ``above`` that one; ``kind`` says so in a complaint."""
        values = self._get(key, default)
        right_kind = isinstance(values, (list, tuple)) and all(type(v) in (int, float) for v in values)
        if not right_kind or len(values) != len(default) or not all(above < v < float("inf") for v in values):
            raise self._wrong(key, f"{len(default)} {kind} numbers")
        return tuple(float(value) for value in values)

    def positive_numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A list as long as ``default``, of positive numbers."""
        return self.numbers(key, default, above=0.0, kind="positive")

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if type(value) is not bool:
            raise self._wrong(key, "true or false")
        return value

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        """One of the strings that are supported."""
        value = self._get(key, default)
        if value not in choices:
            raise self._wrong(key, " or ".join(choices))
        return str(value)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def _wrong(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {key} is {self.values.get(key)!r}; supported: {expected}")
