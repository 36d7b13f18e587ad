"""The two-layer perceptron between vision encoder and language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.layers.folds import Fold
from engines.layers.mlp import Mlp
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class Connector:
    """``features`` (1, P, Dv) to ``image_embeddings`` (1, P, D); a ``newline`` (D,) is one more row behind them."""

    rows: int
    mlp: Mlp
    newline: str | None = None  # the tensor's name

    def parameters(self) -> dict[str, Parameter]:
        """Of the perceptron, and the newline."""
        newline = {self.newline: Parameter((self.mlp.second.rows,))} if self.newline else {}
        return {**self.mlp.parameters(), **newline}

    def folds(self) -> Iterator[Fold]:
        """None."""
        return iter(())

    def products(self) -> tuple[str, ...]:
        """None."""
        return ()

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """Its nodes, from input to output."""
        columns, rows = self.mlp.first.columns, self.rows
        assert isinstance(columns, int)
        features = graph.input("features", lowering.dtype, (1, rows, columns))
        outer = self.mlp.emit(graph, lowering, weights, features)
        if self.newline is not None:
            last = lowering.constant(graph, "image_newline", weights.vector(self.newline)[None, None])
            outer, rows = graph.node("Concat", [outer, last], axis=1), rows + 1
        graph.output("image_embeddings", lowering.dtype, (1, rows, self.mlp.second.rows), outer)
