"""The perceptron of a transformer layer: two matrices around an activation, or a gated one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.layers.folds import Fold
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.projection import Projection
from engines.layers.ptq4vit import linear_behind_gelu
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class Mlp:
    """``W2 f(W1 x)``."""

    first: Projection
    second: Projection
    activation: str

    @property
    def inner(self) -> Projection:
        """The matrix that reads the layer's norm."""
        return self.first

    def parameters(self) -> dict[str, Parameter]:
        """Of both matrices."""
        return {**self.first.parameters(), **self.second.parameters()}

    def folds(self) -> Iterator[Fold]:
        """None: behind an activation nothing can divide the second matrix' inputs."""
        return iter(())

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str) -> str:
        """(1, T, D) to (1, T, D)."""
        inner = lowering.activation(graph, self.first.emit(graph, lowering, weights, x), self.activation)
        return linear_behind_gelu(graph, lowering, inner, weights, self.second.name)


@dataclass(frozen=True)
class GatedMlp:
    """``Wd (f(Wg x) * (Wu x))``; ``gate_up`` holds Wg above Wu."""

    gate_up: Projection
    down: Projection
    activation: str

    @property
    def inner(self) -> Projection:
        """The matrix that reads the layer's norm."""
        return self.gate_up

    def parameters(self) -> dict[str, Parameter]:
        """Of the three matrices."""
        return {**self.gate_up.parameters(), **self.down.parameters()}

    def folds(self) -> Iterator[Fold]:
        """Rows are only multiplied by the gate, so that Wu's can divide what ``down`` reads."""
        up = self.gate_up.stored[-1].name
        yield Fold(self.down.name, (f"{up}.bias",), f"{up}.weight")

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str) -> str:
        """(1, T, D) to (1, T, D)."""
        inner = lowering.gated(graph, self.gate_up.emit(graph, lowering, weights, x), self.activation)
        return self.down.emit(graph, lowering, weights, inner)
