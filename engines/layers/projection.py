"""A matrix of an engine: one of the checkpoint's, or several that read the same input, stacked to one product."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of the checkpoint."""

    name: str
    rows: int
    kind: str = ""  # with which others its precision is tried; its own name where that is empty


@dataclass(frozen=True)
class Projection:
    """``y = x W^T + b``; W is (N, K), the stored matrices one above the other."""

    name: str  # as recipes and graphs call it
    columns: int | tuple[int, ...]  # K; or the shape of a convolution's kernel whose stride is its size
    stored: tuple[StoredMatrix, ...]
    has_bias: bool = False

    @property
    def rows(self) -> int:
        """N."""
        return sum(part.rows for part in self.stored)

    def parameters(self) -> dict[str, Parameter]:
        """The stored matrices, and their biases."""
        columns = (self.columns,) if isinstance(self.columns, int) else self.columns
        found: dict[str, Parameter] = {}
        for part in self.stored:
            kind = part.kind or part.name.rpartition(".")[2]
            found[f"{part.name}.weight"] = Parameter((part.rows, *columns), self.name, kind)
            if self.has_bias:
                found[f"{part.name}.bias"] = Parameter((part.rows,))
        return found

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str) -> str:
        """(1, T, K) to (1, T, N)."""
        return lowering.linear(graph, x, weights.linear(self.name, *(part.name for part in self.stored)))


def projection(
    name: str, rows: int, columns: int | tuple[int, ...], *, has_bias: bool = False, kind: str = ""
) -> Projection:
    """A matrix that is stored as it is used: (rows, columns)."""
    return Projection(name, columns, (StoredMatrix(name, rows, kind),), has_bias)


def numbers_in(parameters: dict[str, Parameter]) -> int:
    """How many numbers they hold together."""
    return sum(math.prod(parameter.shape) for parameter in parameters.values())
