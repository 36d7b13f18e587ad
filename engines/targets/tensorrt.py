"""The targets ``tensorrt`` and ``tensorrt-rtx``: which shapes engines are built for, and what they will weigh."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Component, TensorSpec
from engines.families.base import Part
from engines.graphs.builder import Graph
from engines.graphs.weights import TensorSource
from engines.precision import Precision
from engines.targets.base import TargetOptions, component_of, stored_bytes, write_rows
from engines.targets.tensorrt_compiler import Compiler, Profile, Shape
from engines.targets.tensorrt_dialect import TensorRTDialect
from engines.targets.tensorrt_library import load_tensorrt_rtx

# Tegra may refuse one large contiguous request: an LM head of 128,000 words would ask for 1 GB.
LARGEST_HEAD_PARAMETERS = 1 << 28

CACHE_BUCKET_TOKENS = 256  # the cache is read in such steps
_RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # GeForce RTX 30, 40 and 50; one engine serves all, at no more bytes


class TensorRTTarget:
    """Writes one engine a component, in a strongly typed network."""

    def __init__(self, trt: Any, options: TargetOptions, compute_capabilities: tuple[str, ...], *, aim: bool) -> None:
        self._options = options
        self._versions = {
            "tensorrt": str(trt.__version__),
            "compute_capability": ",".join(compute_capabilities),
            "context_tokens": str(_in_buckets(options.context_tokens)),
            "step_tokens": str(options.step_tokens),
        }
        self._compiler = Compiler(trt, compute_capabilities if aim else (), options.timing_cache)

    @property
    def versions(self) -> Mapping[str, str]:
        """See :class:`engines.targets.base.Target`."""
        return self._versions

    def write_component(self, directory: Path, part: Part, source: TensorSource, precision: Precision) -> Component:
        """See :class:`engines.targets.base.Target`."""
        if part.emit is None:
            return write_rows(directory, part, source, precision)
        graphs = directory / f"{part.name}.graph"  # gone again once there is an engine
        shutil.rmtree(graphs, ignore_errors=True)
        graphs.mkdir()
        try:
            path = graphs / f"{part.name}.onnx"
            with Graph(path) as graph:
                part.emit(graph, TensorRTDialect(), source, precision)
                graph.save()
            profiles = profiles_of(part.kind, precision, graph.inputs, self._options)
            entry = self._compiler.compile(path, directory / f"{part.name}.engine", profiles)
        finally:
            shutil.rmtree(graphs, ignore_errors=True)
        return component_of(part, precision, (entry,), tuple(graph.inputs), tuple(graph.outputs))


def open_tensorrt_rtx(options: TargetOptions) -> TensorRTTarget:
    """TensorRT for RTX, which builds ahead of time, without a GPU.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return TensorRTTarget(load_tensorrt_rtx(), options, options.compute_capabilities or _RTX_CAPABILITIES, aim=True)


def profiles_of(kind: str, precision: Precision, inputs: Sequence[TensorSpec], options: TargetOptions) -> list[Profile]:
    """The shapes that a component's engine is built for; none where nothing is free.

    A decoder's first profile is prefill's (any number of tokens), its second decode's (one token). Weights of 4 bits
    are stored once for both, others once for each, as TensorRT lays them out for the kernels of a profile: they get
    the first profile only. An LM head sees one row.
    """
    prefill = (1, options.step_tokens, options.step_tokens)
    decode = (1, 1, 1)
    context = _in_buckets(options.context_tokens)
    likely = min(_in_buckets(options.step_tokens) + CACHE_BUCKET_TOKENS, context)
    steps = {
        "decoder": [(prefill, CACHE_BUCKET_TOKENS), (decode, likely)],
        "lm_head": [(decode, CACHE_BUCKET_TOKENS)],
    }.get(kind, [])
    if precision.dtype != "int4":
        steps = steps[:1]
    return [
        {
            spec.name: _ranges(spec, {"T": tokens, "C": (1, min(cached, context), context)})
            for spec in inputs
            if any(isinstance(size, str) for size in spec.shape)
        }
        for tokens, cached in steps
    ]


def default_timing_cache(trt: Any, compute_capability: str) -> Path:
    """Where kernels' timings are kept between builds, so that the next one measures less."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "edge-engines" / f"tensorrt-{trt.__version__}-sm{compute_capability}.timing"


def planned_bytes(part: Part, precision: Precision) -> int:
    """What an engine will weigh: its tensors, and the code that TensorRT puts around them, once a profile."""
    if part.emit is None:
        return stored_bytes(part, precision)
    base_bytes, bytes_per_matrix = _CODE_BYTES[part.kind]
    matrices = sum(parameter.is_matrix for parameter in part.parameters.values())
    profiles = 2 if part.kind == "decoder" and precision.dtype == "int4" else 1
    return stored_bytes(part, precision) + profiles * (base_bytes + bytes_per_matrix * matrices)


# Measured with TensorRT for RTX 1.7.1, on models of 9 million to 13 billion parameters; of any size beyond a few
# megabytes of weights it matters little.
_CODE_BYTES = {
    "vision_encoder": (1_600_000, 23_000),
    "connector": (100_000, 0),
    "decoder": (2_000_000, 115_000),
    "lm_head": (300_000, 0),
}


def _ranges(spec: TensorSpec, free: Mapping[str, tuple[int, int, int]]) -> tuple[Shape, Shape, Shape]:
    smallest, likeliest, largest = (
        tuple(free[size][i] if isinstance(size, str) else size for size in spec.shape) for i in range(3)
    )
    return smallest, likeliest, largest


def _in_buckets(tokens: int) -> int:
    return -(-tokens // CACHE_BUCKET_TOKENS) * CACHE_BUCKET_TOKENS
