"""A pre-norm transformer layer, declared once: its tensors, what scales fold into, and its nodes.

Vision encoders and decoders differ in their parts alone: norms, attention, perceptron.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from engines.layers.folds import Fold, folds_under
from engines.layers.mlp import GatedMlp, Mlp
from engines.layers.norm import Norm
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.quantize.methods.fold import Producers

_END = np.iinfo(np.int64).max  # of any axis, in ONNX's Slice


class Attention(Protocol):
    """What lies between the stacked queries, keys and values and the output's matrix."""

    def parameters(self) -> dict[str, Parameter]:
        """Its own tensors, as norms of heads."""

    def producers(self) -> Producers | None:
        """Which row of the values makes which channel that it puts out; None: one each, in order."""

    def products(self) -> tuple[str, ...]:
        """Names under which recipes may round what it multiplies."""

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, qkv: str) -> str:
        """(1, T, (H + 2 Hkv) d) to (1, T, H d)."""


@dataclass(frozen=True)
class TransformerLayer:
    """``h += out(attention(qkv(norm(h))))``, then ``h += mlp(norm(h))``."""

    prefix: str  # of its tensors' names: "layers.3."
    number: int
    attention_norm: Norm
    qkv: Projection
    attention: Attention
    out: Projection
    mlp_norm: Norm
    mlp: Mlp | GatedMlp
    scales: tuple[str, str] | None = None  # vectors by which attention's and the perceptron's outputs are multiplied
    joined_by: str | None = None  # an input of the graph (1, T, D) that is added behind the layer
    keeps_last_row: bool = False  # whether nothing but the last row is read of what it puts out

    def parameters(self) -> dict[str, Parameter]:
        """All of its tensors."""
        parts = (self.attention_norm, self.qkv, self.attention, self.out, self.mlp_norm, self.mlp)
        found = {name: p for part in parts for name, p in part.parameters().items()}
        found |= {name: Parameter((self.out.rows,)) for name in self.scales or ()}
        return under(self.prefix, found, self.number)

    def folds(self) -> Iterator[Fold]:
        """In an order in which scales can be chosen: what is divided is rounded later."""
        values = self.qkv.stored[-1]  # in a matrix of the checkpoint that holds all three, its last rows
        producers = self.attention.producers()
        if len(self.qkv.stored) == 1:
            inner = self.out.columns
            assert isinstance(inner, int)
            channels = np.arange(inner) if producers is None else producers
            producers = channels + (self.qkv.rows - int(channels.max()) - 1)
        yield from folds_under(
            self.prefix,
            (
                Fold(self.out.name, (f"{values.name}.bias",), f"{values.name}.weight", producers),
                *self.mlp.folds(),
                Fold(self.qkv.name, self.attention_norm.vectors),
                Fold(self.mlp.inner.name, self.mlp_norm.vectors),
            ),
        )

    def products(self) -> tuple[str, ...]:
        """Names under which recipes may round what attention multiplies."""
        return tuple(self.prefix + name for name in self.attention.products())

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, normed: str, hidden: str) -> tuple[str, str]:
        """The perceptron's output, and the residual that it is to be added to; ``normed`` is the normalized
        ``hidden``."""
        mine, graph.scope = weights.under(self.prefix), f"layers.{self.number}/"
        qkv = self.qkv.emit(graph, lowering, mine, normed)
        context = self.attention.emit(graph, lowering, mine, qkv)
        if self.keeps_last_row:
            context, hidden = _last_row(graph, context), _last_row(graph, hidden)
        attended = self.out.emit(graph, lowering, mine, context)
        if self.scales is not None:
            attended = _scaled(graph, lowering, mine, attended, self.scales[0])
        normed, hidden = self.mlp_norm.emit_sum(graph, lowering, mine, attended, hidden)
        outer = self.mlp.emit(graph, lowering, mine, normed)
        if self.scales is not None:
            outer = _scaled(graph, lowering, mine, outer, self.scales[1])
        if self.joined_by is not None:
            joining = graph.input(self.joined_by, lowering.dtype, (1, "T", self.out.rows))
            outer = graph.node("Add", [outer, _last_row(graph, joining) if self.keeps_last_row else joining])
        return outer, hidden


def _scaled(graph: Graph, lowering: OpLowering, weights: Weights, x: str, name: str) -> str:
    """Layer scale: every channel by its own number (Touvron et al. 2021, "Going deeper with Image Transformers")."""
    return graph.node("Mul", [x, lowering.constant(graph, weights.prefix + name, weights.vector(name))])


def emit_layers(
    graph: Graph, lowering: OpLowering, weights: Weights, layers: Sequence[TransformerLayer], hidden: str
) -> list[str]:
    """Emit ``layers`` one behind the other; returns the hidden states behind each, before any norm."""
    states = []
    normed = layers[0].attention_norm.emit(graph, lowering, weights.under(layers[0].prefix), hidden)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        outer, hidden = layer.emit(graph, lowering, weights, normed, hidden)
        if following is None:
            hidden = graph.node("Add", [outer, hidden])
        else:
            mine = weights.under(following.prefix)
            normed, hidden = following.attention_norm.emit_sum(graph, lowering, mine, outer, hidden)
        states.append(hidden)
    graph.scope = ""
    return states


def keeping_last_row(layers: Sequence[TransformerLayer]) -> tuple[TransformerLayer, ...]:
    """The same layers, the last of which puts out one row. In a decoder of 4, that is a seventh of prefill."""
    return (*layers[:-1], replace(layers[-1], keeps_last_row=True))


def _last_row(graph: Graph, x: str) -> str:
    return graph.node("Slice", [x, graph.ints(-1), graph.ints(_END), graph.ints(1)])  # (1, T, D) to (1, 1, D)
