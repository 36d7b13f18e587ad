"""Which nodes of a float16 graph must not run in float16, because activations there exceed what it can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from edge_runtime.errors import CalibrationError
from engines.calibration.activation_runner import ActivationRunner
from engines.calibration.cache import CacheBinding, load_text, save_cache
from engines.onnx.tensors import activation_names, element_types, load_graph, sha256_of_graph

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)  # 65504


@dataclass(frozen=True)
class Overflow:
    """What does not fit float16 in one component."""

    tensors: Mapping[str, float]  # the largest magnitude of each that exceeds 65504, by name
    nodes: tuple[str, ...]  # that read or write one of them: to be kept in float32


def find_overflow(runner: ActivationRunner, graph: Path, cache: Path | None = None, *, stay: bool = False) -> Overflow:
    """Go behind the component in ``graph``, and say what overflows in it on any calibration image.

    That is read from ``cache`` where it is fresh, and then nothing is run; written there otherwise. With ``stay``, the
    runner stays before the component, as there is more to be found out about it.

    Raises:
        CalibrationError: a tensor overflows that passes between components; the cache is stale or damaged; or as
            :meth:`ActivationRunner.through`.
        SourceError: there is no image.
    """
    model = load_graph(graph)
    binding = CacheBinding("", sha256_of_graph(graph), runner.data_sha256, "largest magnitudes")
    text = load_text(cache, binding) if cache else None
    if text is not None:
        tensors = json.loads(text)  # as it was written: its hash was checked
        if not stay:
            runner.skip(graph)
    else:
        look = runner.look if stay else runner.through
        tensors = overflowing_tensors(model, look(graph, peaks_of=activation_names(model)).peaks)
        if cache:
            save_cache(cache, json.dumps(tensors, indent=2) + "\n", binding)
    return Overflow(tensors, float32_nodes(model, tensors))


def overflowing_tensors(model: onnx.ModelProto, peaks: Mapping[str, float]) -> dict[str, float]:
    """Those float16 tensors of ``model`` whose largest magnitude exceeds 65504, or is no number."""
    types = element_types(model)
    return {
        name: peak
        for name, peak in peaks.items()
        if types.get(name) == TensorProto.FLOAT16 and not peak <= LARGEST_FLOAT16
    }


def float32_nodes(model: onnx.ModelProto, peaks: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the nodes that read or write an overflowing tensor, in the graph's order.

    Raises:
        CalibrationError: one of these tensors is an input or output: it passes between components in float16.
    """
    overflowing = overflowing_tensors(model, peaks)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in overflowing:
            raise CalibrationError(
                f"{value.name} reaches {overflowing[value.name]:.6g}, and passes between components as float16, which "
                f"ends at {LARGEST_FLOAT16:.0f}; build for onnxruntime, which computes in float32"
            )
    return tuple(n.name for n in model.graph.node if not overflowing.keys().isdisjoint([*n.input, *n.output]))
