"""Compilers: from a component's graph to the files that one inference engine loads; one file per engine."""

from collections.abc import Mapping

from engines.targets.base import TargetKind
from engines.targets.onnxruntime import OnnxRuntimeTarget
from engines.targets.tensorrt import open_tensorrt, open_tensorrt_rtx
from engines.targets.tensorrt_shapes import LARGEST_HEAD_PARAMETERS, planned_bytes

TARGETS: Mapping[str, TargetKind] = {
    "onnxruntime": TargetKind(OnnxRuntimeTarget),
    "tensorrt": TargetKind(
        open_tensorrt,
        computes_float16=True,
        head_parameters=LARGEST_HEAD_PARAMETERS,
        planned_bytes=planned_bytes,
    ),
    "tensorrt-rtx": TargetKind(
        open_tensorrt_rtx,
        computes_float16=True,
        head_parameters=LARGEST_HEAD_PARAMETERS,
        planned_bytes=planned_bytes,
    ),
}
