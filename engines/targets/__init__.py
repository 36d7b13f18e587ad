"""Compilers: from a component's graph to the files that one inference engine loads; one file per engine."""

from collections.abc import Callable, Mapping
from pathlib import Path

from edge_runtime.bundle import Component
from engines.families.base import Part
from engines.graphs.weights import TensorSource
from engines.precision import Precision
from engines.targets.onnxruntime import write_component

TARGETS: Mapping[str, Callable[[Path, Part, TensorSource, Precision], Component]] = {"onnxruntime": write_component}
