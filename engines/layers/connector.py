"""What lies between vision encoder and language model: a perceptron, or a matrix, over rows or squares of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.layers.folds import Fold
from engines.layers.mlp import Mlp
from engines.layers.norm import Norm
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.projection import Projection
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class Connector:
    """``features`` (1, P, Dv) to ``image_embeddings`` (1, P / s^2, D); a ``newline`` (D,) is one more row behind them.

    ``shuffle`` is s: as many rows and columns of features side by side make one row (pixel shuffle: Shi et al. 2016,
    "Real-Time Single Image and Video Super-Resolution", the other way round).
    """

    rows: int  # P
    mlp: Mlp | Projection
    newline: str | None = None  # the tensor's name
    shuffle: int = 1
    norm: Norm | None = None  # of what the perceptron reads

    @property
    def _ends(self) -> tuple[Projection, Projection]:
        return (self.mlp.first, self.mlp.second) if isinstance(self.mlp, Mlp) else (self.mlp, self.mlp)

    def parameters(self) -> dict[str, Parameter]:
        """Of the norm, the perceptron, and the newline."""
        norm = self.norm.parameters() if self.norm else {}
        newline = {self.newline: Parameter((self._ends[1].rows,))} if self.newline else {}
        return {**norm, **self.mlp.parameters(), **newline}

    def folds(self) -> Iterator[Fold]:
        """The norm's."""
        if self.norm is not None:
            yield Fold(self._ends[0].name, self.norm.vectors)

    def products(self) -> tuple[str, ...]:
        """None."""
        return ()

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """Its nodes, from input to output."""
        first, second = self._ends
        columns, rows, step = first.columns, self.rows, self.shuffle
        assert isinstance(columns, int)
        width = columns // step**2
        hidden = graph.input("features", lowering.dtype, (1, rows, width))
        if step > 1:
            side = round(rows**0.5) // step
            squares = graph.node("Reshape", [hidden, graph.ints(side, step, side, step * width)])
            squares = graph.node("Transpose", [squares], perm=(0, 2, 1, 3))
            rows = side**2
            hidden = graph.node("Reshape", [squares, graph.ints(1, rows, columns)])
        if self.norm is not None:
            hidden = self.norm.emit(graph, lowering, weights, hidden)
        outer = self.mlp.emit(graph, lowering, weights, hidden)
        if self.newline is not None:
            last = lowering.constant(graph, "image_newline", weights.vector(self.newline)[None, None])
            outer, rows = graph.node("Concat", [outer, last], axis=1), rows + 1
        graph.output("image_embeddings", lowering.dtype, (1, rows, second.rows), outer)
