"""Compilers: from a component's graph to the files that one inference engine loads; one file per engine."""

from collections.abc import Mapping

from engines.targets.base import Target
from engines.targets.onnxruntime import ONNX_RUNTIME

TARGETS: Mapping[str, Target] = {"onnxruntime": ONNX_RUNTIME}
