"""The target onnxruntime-amx: ONNX Runtime's graphs with the operators of ``edge_runtime.amx``."""

from __future__ import annotations

from dataclasses import replace

from engines.families.base import Part
from engines.layers.lowering.onnxruntime_amx import AmxInt8CacheLowering, AmxLowering, is_whole, whole_rows
from engines.layers.lowering.zero_points import offset_bytes
from engines.quantize.formats.int4 import block_size_for
from engines.quantize.recipe import COMPUTED, Precision
from engines.targets import onnxruntime
from engines.targets.base import TargetOptions, stored_bytes
from engines.targets.onnxruntime import OnnxRuntimeTarget


class OnnxRuntimeAmxTarget(OnnxRuntimeTarget):
    """ONNX Runtime's graphs, for processors with AMX."""

    def __init__(self, options: TargetOptions) -> None:
        super().__init__(options)
        self._lowering = AmxLowering() if options.kv_cache == COMPUTED else AmxInt8CacheLowering()


def planned_bytes(part: Part, precision: Precision) -> int:
    """Bytes of a component's files: as stored, in whole tiles, where the operators for AMX read its matrices."""
    return stored_bytes(part, precision, _matrix_bytes if part.emit else Precision.matrix_bytes)


def _matrix_bytes(precision: Precision, rows: int, columns: int) -> int:
    block_size = precision.block_size and block_size_for(columns, precision.block_size)
    if is_whole(columns, block_size):
        offsets = offset_bytes(rows, columns, block_size) if block_size and precision.has_zeros else 0
        return replace(precision, has_zeros=False).matrix_bytes(whole_rows(rows), columns) + offsets
    return onnxruntime.matrix_bytes(precision, rows, columns)
