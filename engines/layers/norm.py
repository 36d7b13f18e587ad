"""LayerNorm and RMSNorm: what they hold, and their nodes."""

from __future__ import annotations

from dataclasses import dataclass

from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class Norm:
    """Normalizes the last axis by its root mean square, or by its mean and variance (``has_mean``)."""

    name: str
    width: int
    epsilon: float
    has_mean: bool = False

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the tensors with an entry a channel."""
        return (f"{self.name}.weight", f"{self.name}.bias") if self.has_mean else (f"{self.name}.weight",)

    def parameters(self) -> dict[str, Parameter]:
        """The weight, and the bias of a LayerNorm."""
        return {name: Parameter((self.width,)) for name in self.vectors}

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str) -> str:
        """The normalized ``x``, of the same shape."""
        scale, *bias = self._constants(graph, lowering, weights)
        if self.has_mean:
            return lowering.layer_norm(graph, x, scale, bias[0], self.epsilon)
        return lowering.rms_norm(graph, x, scale, self.epsilon)

    def emit_sum(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str, residual: str) -> tuple[str, str]:
        """``x + residual``, normalized and as it is."""
        scale, *bias = self._constants(graph, lowering, weights)
        if self.has_mean:
            return lowering.add_layer_norm(graph, x, residual, scale, bias[0], self.epsilon)
        return lowering.add_rms_norm(graph, x, residual, scale, self.epsilon)

    def _constants(self, graph: Graph, lowering: OpLowering, weights: Weights) -> list[str]:
        return [lowering.constant(graph, weights.prefix + name, weights.vector(name)) for name in self.vectors]
