"""What each inference engine makes of a bundle in memory, as measured; knows no budget and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BARE_PROCESS_BYTES = 61_000_000  # of `process_bytes` below: what imports take before an engine's library; x86-64


@dataclass(frozen=True)
class Footprint:
    """What a target's inference engine makes of stored bytes."""

    process_bytes: int  # before any weight
    resident_per_stored: Mapping[str, float]  # by precision
    load_per_stored: Mapping[str, float]  # by precision: on top of what stays, while one component loads
    number_bytes: int  # of activations' numbers
    step_rows: int | None  # the most rows of a step; None: what the engines were built for


# ONNX Runtime computes in float32 on a CPU: it widens float16 and repacks every weight. Measured with one-layer groups
# of a 13B decoder (171 MB each): 1.05 of int4 stays, and another 0.21 comes and goes. Of a float16 vision encoder of
# 582 MB 2.1 stay, of an LM head of 328 MB 2.0, and as much again comes and goes: the widened weights, before they are
# packed. Interpreter, numpy, OpenCV, tokenizer and the library took 93 MB on x86-64. docs/budget.md has the commands.
# GroupQueryAttention computes all scores of a step, those of the future too: in steps of 72 rows the prefill of 262
# took 15 % less than in one, as fewer are in vain and a head's scores stay in the cache.
_ONNXRUNTIME = Footprint(
    120_000_000,
    {"float16": 2.1, "int8": 1.3, "int4": 1.05, "nf4": 1.3},
    {"float16": 2.1, "int8": 0.25, "int4": 0.25, "nf4": 0.25},
    number_bytes=4,
    step_rows=72,
)
# Matrices that the operators for AMX read stay in their file, as they are stored; loading brings their pages in. Each
# step reads all weights anew, and unpacks them: the longer the better, but the rows are to stay in a core's cache.
_ONNXRUNTIME_AMX = Footprint(
    120_000_000,
    {"float16": 1.0, "int4": 1.0},
    {"float16": 0.0, "int4": 0.0},
    number_bytes=4,
    step_rows=192,
)
# An engine's weights go to the device as they are stored; its file is mapped until they are there. CUDA's context and
# TensorRT's libraries take 0.4 GiB before them.
_AS_STORED = {"float16": 1.0, "int8": 1.0, "int4": 1.0, "nf4": 1.0}
_TENSORRT = Footprint(550_000_000, _AS_STORED, _AS_STORED, number_bytes=2, step_rows=None)

FOOTPRINTS: Mapping[str, Footprint] = {
    "onnxruntime": _ONNXRUNTIME,
    "onnxruntime-amx": _ONNXRUNTIME_AMX,
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
}
