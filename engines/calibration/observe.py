"""Runs an ONNX graph on samples and looks at tensors inside it; knows no image, and keeps no sample.

ONNX Runtime computes, in float32 whatever the graph says: a float16 that overflows is to be seen as the number it would
have been. The graph is given more outputs for the time of it. Where only the largest magnitude of a tensor is asked
for, the graph finds it itself, so that no tensor is copied out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeEngine
from edge_runtime.errors import CalibrationError
from engines.onnx.float32 import float32_twin
from engines.onnx.tensors import load_graph
from engines.quantize.activations import ActivationMeter
from engines.quantize.histogram import Histogram

Array = NDArray[Any]

_PEAK = ".largest_magnitude"
_PEAKS = ".largest_magnitudes"  # of each channel
_INFINITY = "infinity"
_ROWS = "rows"  # the axes of (1, T, D) but the last


@dataclass
class Observation:
    """What was seen of a graph's tensors, by name, over all samples so far."""

    histograms: dict[str, Histogram] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)  # largest magnitudes; infinite where a number is none
    channel_peaks: dict[str, Array] = field(default_factory=dict)  # the same of each number along the last axis
    meters: dict[str, ActivationMeter] = field(default_factory=dict)  # products of the tensors' last axes
    held_out: dict[str, Array] = field(default_factory=dict)  # the last image's, which no meter has been told

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Count the outputs of one run of an observed graph, and those of its inputs that are asked for too.

        Raises:
            CalibrationError: a tensor holds NaN or infinity; its name is told.
        """
        for name, histogram in self.histograms.items():
            histogram.add(outputs[name], name)
        for name, peak in self.peaks.items():
            self.peaks[name] = max(peak, float(outputs[name + _PEAK]))
        for name, peaks in self.channel_peaks.items():
            self.channel_peaks[name] = np.maximum(peaks, outputs[name + _PEAKS])
        for name, meter in self.meters.items():
            if name in self.held_out:
                meter.add(self.held_out[name], name)
            self.held_out[name] = outputs[name]


@contextmanager
def open_observed(
    graph: Path,
    histograms_of: Collection[str] = (),
    peaks_of: Collection[str] = (),
    products_of: Mapping[str, int] = MappingProxyType({}),
    channel_peaks_of: Collection[str] = (),
) -> Iterator[tuple[OnnxRuntimeEngine, Observation]]:
    """Load ``graph`` with more outputs; its inputs and what ``evaluate`` gives are to be added to the observation.

    ``products_of`` has the width of each tensor whose meter is wanted.

    Raises:
        CalibrationError: the graph has no such tensor.
        BackendError: ONNX Runtime does not load the graph.
    """
    model = float32_twin(load_graph(graph))
    _check_tensors(model, {*histograms_of, *peaks_of, *products_of, *channel_peaks_of}, graph)
    # Not inputs: ONNX Runtime 1.23 gives back other memory for an output that is one, and the caller has them.
    own = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted({*histograms_of, *products_of} - own))
    for name, peak, axes in [(n, n + _PEAK, "") for n in peaks_of] + [(n, n + _PEAKS, _ROWS) for n in channel_peaks_of]:
        model.graph.node.extend(_peak_nodes(name, peak, axes))
        model.graph.output.append(onnx.ValueInfoProto(name=peak))
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), _INFINITY))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), _ROWS))
    observed = graph.with_name(f"{graph.stem}.observed.onnx")  # beside the weights, as ONNX demands
    try:
        observed.write_bytes(model.SerializeToString())
        engine = OnnxRuntimeBackend().load(observed)
    except OSError as error:
        raise CalibrationError(f"{observed} cannot be written: {error}; make room there") from error
    finally:
        observed.unlink(missing_ok=True)
    try:
        meters = {name: ActivationMeter(width) for name, width in products_of.items()}
        yield (
            engine,
            Observation(
                {name: Histogram() for name in histograms_of},
                dict.fromkeys(peaks_of, 0.0),
                dict.fromkeys(channel_peaks_of, np.zeros(1, np.float32)),
                meters,
            ),
        )
    finally:
        engine.close()


def _peak_nodes(name: str, peak: str, axes: str) -> list[onnx.NodeProto]:
    """The largest magnitude along ``axes`` ("" for all); ONNX Runtime's ReduceMax passes over NaN: infinite first."""
    magnitude, is_none, known = (f"{peak}.{part}" for part in ("of", "is_none", "of_known"))
    return [
        helper.make_node("Abs", [name], [magnitude]),
        helper.make_node("IsNaN", [magnitude], [is_none]),
        helper.make_node("Where", [is_none, _INFINITY, magnitude], [known]),
        helper.make_node("ReduceMax", [known, axes], [peak], keepdims=0),
    ]


def _check_tensors(model: onnx.ModelProto, names: set[str], graph: Path) -> None:
    there = {value.name for value in model.graph.input} | {name for node in model.graph.node for name in node.output}
    if missing := sorted(names - there):
        raise CalibrationError(f"{graph.name} has no tensor {missing[0]!r}; the names are of another graph")
