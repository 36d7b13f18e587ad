"""An LM head cut into several over the vocabulary, for engines that must stay small; the same for every family."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from engines.families.base import Part
from engines.layers.op_lowering import OpLowering
from engines.layers.weights import CalibratedSource, QuantizedSource, TensorSource
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix
from engines.quantize.recipe import Precision
from engines.quantized_checkpoint import QuantizedMatrix


def split_head(part: Part, largest: int | None) -> tuple[Part, ...]:
    """An LM head as parts of at most ``largest`` weights, named in the order of the vocabulary; others as they are."""
    matrices = {name: parameter for name, parameter in part.parameters.items() if parameter.is_matrix}
    if part.role != "lm_head" or largest is None or sum(math.prod(p.shape) for p in matrices.values()) <= largest:
        return (part,)
    [(name, matrix)] = matrices.items()
    height = max(largest // math.prod(matrix.shape[1:]), 1)
    return tuple(
        _rows_of(part, f"{part.name}.{index:02d}", name, range(first, min(first + height, matrix.shape[0])))
        for index, first in enumerate(range(0, matrix.shape[0], height))
    )


def _rows_of(part: Part, name: str, matrix: str, rows: range) -> Part:
    whole = part.parameters[matrix]
    parameters = {**part.parameters, matrix: replace(whole, shape=(len(rows), *whole.shape[1:]))}

    def emit(graph: Graph, lowering: OpLowering, source: TensorSource, precision: Precision) -> None:
        assert part.emit is not None
        part.emit(graph, lowering, _RowsOfOne(source, matrix, rows), precision)

    return replace(part, name=name, parameters=parameters, emit=emit)


@dataclass(frozen=True)
class _RowsOfOne:
    """A source of tensors, of one of which there are some rows only."""

    source: TensorSource
    name: str
    rows: range

    def tensor(self, name: str) -> NDArray[Any]:
        tensor = self.source.tensor(name)
        return tensor[self.rows.start : self.rows.stop] if name == self.name else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.source

    def rounded(self, name: str, weight: NDArray[Any], precision: Precision) -> Int4Matrix:
        assert isinstance(self.source, CalibratedSource)
        return self.source.rounded(name, weight, precision)  # rows are rounded by themselves

    def int4(self, name: str) -> QuantizedMatrix:
        assert isinstance(self.source, QuantizedSource)
        found = self.source.int4(name)
        rows = slice(self.rows.start, self.rows.stop)
        return replace(found, matrix=found.matrix.some_rows(rows)) if name == self.name else found
