"""What a target is to the builder: which engines it can write, and what it will weigh; knows no engine itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_runtime.bundle.manifest import Component, FileEntry, TensorSpec
from engines.calibration.activation_runner import ActivationRunner
from engines.families.base import Part
from engines.layers.weights import TensorSource, Weights
from engines.onnx.builder import HashedFile
from engines.quantize.formats.int4 import Int4Matrix
from engines.quantize.recipe import COMPUTED, Precision, PrecisionPlan


@dataclass(frozen=True)
class TargetOptions:
    """What a compiler has to know beside the graphs."""

    context_tokens: int  # that a key/value cache may grow to
    step_tokens: int  # that one step may run at most: the image and the text behind it
    compute_capabilities: tuple[str, ...] | None = None  # of the GPUs to build for, as "8.7"; None: the target's own
    timing_cache: Path | None = None  # None: the user's cache directory
    has_int8: bool = False  # whether the recipe asks for INT8 anywhere
    int8_route: str | None = None  # "implicit" or "explicit"; None: what TensorRT's version suggests
    kv_cache: str = COMPUTED  # how keys and values are kept
    patches: tuple[int, ...] = ()  # of each picture that a vision encoder takes, where they are not always as many


@dataclass(frozen=True)
class Calibration:
    """Calibration images, as far as they have come, and where what they told is kept."""

    runner: ActivationRunner
    caches: Path  # a directory, of a few files for every component

    def cache(self, name: str) -> Path:
        """Where something is kept that was found out about a component."""
        return self.caches / name


class Target(Protocol):
    """A compiler, opened."""

    @property
    def versions(self) -> Mapping[str, str]:
        """What its engines are bound to, for the manifest; a build that began with others begins anew."""

    def write_component(
        self,
        directory: Path,
        part: Part,
        source: TensorSource,
        precision: Precision,
        calibration: Calibration | None = None,
    ) -> Component:
        """Write one component's files; INT8 needs ``calibration``, whose images are behind the component afterwards.

        Raises:
            CheckpointError: a tensor cannot be read, or not be stored at the precision.
            CalibrationError: ranges cannot be found, or those in the cache are of something else.
            BackendError: the compiler refuses the graph.
            OSError: the files cannot be written.
        """

    def graph_of(self, directory: Path, part: Part) -> Path:
        """Where the graph of a component that was written with calibration lies, for images to pass through."""


def stored_bytes(
    part: Part,
    precision: Precision,
    matrix_bytes: Callable[[Precision, int, int], int] = Precision.matrix_bytes,
) -> int:
    """Bytes of a component's tensors at a precision, without any code around them."""
    return sum(
        matrix_bytes(precision.of(p.matrix), p.shape[0], math.prod(p.shape[1:]))
        if p.is_matrix
        else 2 * math.prod(p.shape)
        for p in part.parameters.values()
    )


@dataclass(frozen=True)
class TargetKind:
    """A target as it can be planned for where its library is not installed."""

    open: Callable[[TargetOptions], Target]
    options: frozenset[str] = frozenset()  # fields of TargetOptions that a user may set
    computes_float16: bool = False  # so that activations may overflow
    head_parameters: int | None = None  # an LM head with more is split over the vocabulary; None: never
    weights: tuple[str, ...] = ("float16", "int8", "int4")  # that its engines read
    kv_caches: tuple[str, ...] = (COMPUTED,)  # ways of keeping keys and values
    blocks: tuple[int, ...] = ()  # of 4 bits, that its products are made for; empty: any
    cache_dtype: Callable[[int], str] = lambda head_dim: "float32"  # of keys and values, as they are computed
    planned_bytes: Callable[[Part, Precision], int] = field(default=stored_bytes)  # of a component's files
    arithmetic: str = "float32"  # what its engines round to between two operators: verify allows for it

    def lacks(self, precisions: PrecisionPlan) -> str | None:
        """What its engines cannot do of a recipe, in a few words."""
        if precisions.kv_cache not in self.kv_caches:
            return f"keys and values kept as {precisions.kv_cache}"
        read = [p for kind, component in precisions.components.items() if kind != "embedding" for p in component.every]
        if self.blocks and (others := {p.block_size for p in read if p.block_size} - {*self.blocks}):
            return f"4-bit weights in blocks of {min(others)}"
        return next((f"{p.dtype} weights" for p in precisions.every if p.dtype not in self.weights), None)


def write_rows(directory: Path, part: Part, source: TensorSource, precision: Precision) -> Component:
    """Write an embedding: bare rows, which need no engine and are the same for every target."""
    [name] = part.parameters
    rows = Weights(source, precision).rows(name.removesuffix(".weight"))
    stem = directory / part.name
    if isinstance(rows, Int4Matrix):
        files = (
            _write_array(stem.with_suffix(".q4"), rows.packed),
            _write_array(stem.with_suffix(".scales"), rows.scales),
        )
        return component_of(part, precision, files, block_size=rows.block_size)
    return component_of(part, precision, (_write_array(stem.with_suffix(".f16"), rows),))


def component_of(
    part: Part,
    precision: Precision,
    files: tuple[FileEntry, ...],
    inputs: tuple[TensorSpec, ...] = (),
    outputs: tuple[TensorSpec, ...] = (),
    *,
    block_size: int | None = None,
    float32_nodes: tuple[str, ...] = (),
) -> Component:
    """The manifest's entry of a component that was written."""
    shapes = {name: p.shape for name, p in part.parameters.items() if p.is_matrix}
    found = {name: precision.of(part.parameters[name].matrix) for name in shapes}
    coarsest = min(found.values(), key=lambda p: p.matrix_bytes(1024, 1024), default=precision)
    wide = [math.prod(shapes[name]) for name, p in found.items() if p.dtype == "float16" != coarsest.dtype]
    methods = {p.method for p in found.values()}
    products = map(precision.of_products, part.products)
    return Component(
        name=part.name,
        role=part.role,
        layers=part.layers,
        precision=coarsest.dtype,
        block_size=block_size or coarsest.block_size,
        method="mixed" if len(methods) > 1 else coarsest.method,
        files=files,
        inputs=inputs,
        outputs=outputs,
        float32_nodes=float32_nodes,
        float16_bytes=2 * sum(wide),
        products=next((p.method for p in products if p.dtype == "int8"), None),
    )


def _write_array(path: Path, array: NDArray[Any]) -> FileEntry:
    file = HashedFile(path)
    try:
        file.write_array(array)
    finally:
        entry = file.close()
    return entry
