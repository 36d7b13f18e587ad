"""Compilers: from a component's graph to the files that one inference engine loads; one file per engine."""

from collections.abc import Mapping

from edge_runtime.errors import RecipeError
from engines.fidelity import FLOAT16_ARITHMETIC
from engines.targets.base import TargetKind
from engines.targets.onnxruntime import OnnxRuntimeTarget
from engines.targets.tensorrt import open_tensorrt, open_tensorrt_rtx
from engines.targets.tensorrt_shapes import LARGEST_HEAD_PARAMETERS, planned_bytes

TARGETS: Mapping[str, TargetKind] = {
    "onnxruntime": TargetKind(OnnxRuntimeTarget),
    "tensorrt": TargetKind(
        open_tensorrt,
        frozenset({"compute_capabilities", "timing_cache", "int8_route"}),
        computes_float16=True,
        head_parameters=LARGEST_HEAD_PARAMETERS,
        planned_bytes=planned_bytes,
        arithmetic=FLOAT16_ARITHMETIC,
    ),
    "tensorrt-rtx": TargetKind(
        open_tensorrt_rtx,
        frozenset({"compute_capabilities", "timing_cache", "int8_route"}),
        computes_float16=True,
        head_parameters=LARGEST_HEAD_PARAMETERS,
        planned_bytes=planned_bytes,
        arithmetic=FLOAT16_ARITHMETIC,
    ),
}


def target_kind(name: str) -> TargetKind:
    """The target of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in TARGETS:
        raise RecipeError(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]
