"""Compilers: from a component's graph to the files that one inference engine loads; one file per engine."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from edge_runtime.errors import RecipeError
from engines.layers.lowering.onnxruntime_amx import BLOCKS, cache_dtype
from engines.quantize.recipe import KV_CACHES
from engines.targets import onnxruntime, onnxruntime_amx
from engines.targets.base import TargetKind
from engines.targets.onnxruntime import OnnxRuntimeTarget
from engines.targets.onnxruntime_amx import OnnxRuntimeAmxTarget
from engines.targets.tensorrt import open_tensorrt, open_tensorrt_rtx
from engines.targets.tensorrt_shapes import LARGEST_HEAD_PARAMETERS, planned_bytes

_TENSORRT = TargetKind(
    open_tensorrt,
    frozenset({"compute_capabilities", "timing_cache", "int8_route"}),
    computes_float16=True,
    head_parameters=LARGEST_HEAD_PARAMETERS,
    cache_dtype=lambda head_dim: "float16",
    planned_bytes=partial(planned_bytes, shares_weights=True),
    arithmetic="float16",
)

TARGETS: Mapping[str, TargetKind] = {
    "onnxruntime": TargetKind(
        OnnxRuntimeTarget,
        weights=("float16", "int8", "int4", "nf4"),
        kv_caches=KV_CACHES,
        planned_bytes=onnxruntime.planned_bytes,
    ),
    "onnxruntime-amx": TargetKind(
        OnnxRuntimeAmxTarget,
        weights=("float16", "int4"),
        kv_caches=KV_CACHES,
        blocks=BLOCKS,
        cache_dtype=cache_dtype,
        planned_bytes=onnxruntime_amx.planned_bytes,
        arithmetic="float16",  # of keys and values
    ),
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": replace(
        _TENSORRT, open=open_tensorrt_rtx, planned_bytes=partial(planned_bytes, shares_weights=False)
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
