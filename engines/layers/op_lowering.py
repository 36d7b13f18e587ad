"""What a target must be able to say: the operations that emitters use and targets lower differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from engines.layers.weights import Linear
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class CausalAttention:
    """The sizes of one decoder layer's attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class OpLowering(Protocol):
    """Lowers each operation to the nodes that a target executes best; values are named as in :class:`Graph`.

    What ONNX's own operators say for every target is written here.
    """

    dtype: str  # in which hidden states pass between components

    def constant(self, graph: Graph, name: str, array: NDArray[Any]) -> str:
        """A constant at the compute type."""

    def from_float32(self, graph: Graph, x: str) -> str:
        """A float32 input at the compute type."""

    def to_float32(self, graph: Graph, x: str) -> str:
        """A value at the compute type as a float32 output."""

    def linear(self, graph: Graph, x: str, linear: Linear) -> str:
        """(1, T, K) to (1, T, N)."""

    def rms_norm(self, graph: Graph, x: str, scale: str, epsilon: float) -> str:
        """Normalize the last axis by its root mean square."""

    def add_rms_norm(self, graph: Graph, x: str, residual: str, scale: str, epsilon: float) -> tuple[str, str]:
        """``x + residual``, normalized and as it is."""

    def layer_norm(self, graph: Graph, x: str, scale: str, bias: str, epsilon: float) -> str:
        """Normalize the last axis by its mean and variance."""

    def add_layer_norm(
        self, graph: Graph, x: str, residual: str, scale: str, bias: str, epsilon: float
    ) -> tuple[str, str]:
        """``x + residual``, normalized and as it is.

        Two nodes: fused, ONNX Runtime computes the statistics one number at a time.
        """
        total = graph.node("Add", [x, residual])
        return self.layer_norm(graph, total, scale, bias, epsilon), total

    def activation(self, graph: Graph, x: str, kind: str) -> str:
        """One of ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``silu``, element by element."""

    def gated(self, graph: Graph, gate_up: str, kind: str) -> str:
        """The first half of the last axis, activated, times the second: (1, T, 2 K) to (1, T, K)."""
        gate, up = graph.nodes("Split", [gate_up], 2, axis=-1, num_outputs=2)
        return graph.node("Mul", [self.activation(graph, gate, kind), up])

    def attention(self, graph: Graph, qkv: str, num_heads: int, width: int) -> str:
        """Every row attends to every row: (1, T, 3 * width) to (1, T, width)."""

    def causal_attention(self, graph: Graph, qkv: str, layer: int, sizes: CausalAttention) -> str:
        """Rows rotated to their positions attend to the cache and to rows before them; declares the cache's inputs
        and outputs. (1, T, (num_heads + 2 * num_kv_heads) * head_dim) to (1, T, num_heads * head_dim)."""
