"""Vision transformers over pictures of their own shape: patches turned by their row and column, merged to tokens.

Qwen's towers. Grids are known when engines are built, so that places of patches are constants: of several grids, one
behind the other in one table, from which an input chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import DEEPSTACK
from edge_runtime.vision.image_encoder import PATCH_ROWS
from engines.layers.attention import SelfAttention
from engines.layers.folds import Fold, folds_under
from engines.layers.mlp import GatedMlp, Mlp
from engines.layers.norm import Norm
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection, StoredMatrix, projection
from engines.layers.transformer import TransformerLayer, emit_layers
from engines.layers.weights import Weights
from engines.onnx.builder import Graph

_ROTATION = ("patches.cos", "patches.sin")  # values (1, P, 1, d / 2) of the graph


@dataclass(frozen=True)
class Grids:
    """Rows and columns of tokens that engines are built for, each of ``merge`` x ``merge`` patches."""

    tokens: tuple[tuple[int, int], ...]
    merge: int
    window: int = 1  # tokens along a side of what patches attend within, which come one window after another

    @property
    def patches(self) -> tuple[int, ...]:
        """Patches of each grid."""
        return tuple(rows * columns * self.merge**2 for rows, columns in self.tokens)

    @property
    def free_or(self) -> tuple[int | str, int | str]:
        """Patches and tokens of a picture; names where they are not always as many."""
        if len(self.tokens) > 1:
            return "P", "T"
        return self.patches[0], math.prod(self.tokens[0])

    def window_order(self) -> NDArray[np.int64]:
        """Numbers of each grid's patches, those of a window beside each other: (N,), all grids one behind the other."""
        return np.concatenate([self._window_order(*grid) for grid in self.tokens])

    def _window_order(self, rows: int, columns: int) -> NDArray[np.int64]:
        side, patches = self.window, self.merge**2
        numbers = np.arange(rows * columns * patches)
        windows = numbers.reshape(rows // side, side, columns // side, side, patches)
        ordered: NDArray[np.int64] = windows.transpose(0, 2, 1, 3, 4).reshape(-1)
        return ordered

    def places(self) -> NDArray[np.int64]:
        """Row, column, and their numbers, of every patch in its order, all grids one behind the other: (N, 4)."""
        return np.concatenate([self._places(*grid) for grid in self.tokens])

    def first_patches(self) -> NDArray[np.int64]:
        """For each patch of all grids, the number of its grid's first one: (N,)."""
        return np.repeat(np.cumsum((0, *self.patches[:-1])), self.patches)

    def _places(self, rows: int, columns: int) -> NDArray[np.int64]:
        merge = self.merge
        row, column = np.mgrid[: rows * merge, : columns * merge]
        sizes = (np.full_like(row, rows * merge), np.full_like(row, columns * merge))
        places = np.stack([row, column, *sizes], axis=-1).reshape(rows, merge, columns, merge, 4)
        ordered: NDArray[np.int64] = places.transpose(0, 2, 1, 3, 4).reshape(-1, 4)  # token after token
        return ordered


@dataclass(frozen=True)
class NativeVitConfig:
    """Sizes of such a vision transformer."""

    patch_size: int  # pixels a side
    frames: int  # that a patch has in time; a still is repeated
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    table_side: int | None  # of the square of learned positions, where there are any
    theta: float  # of the rotation by rows and columns
    layer_norm_eps: float
    activation: str
    taps: tuple[int, ...]  # numbers of layers behind which maps are taken for the decoder
    out_width: int
    grids: Grids
    has_means: bool = True  # LayerNorm; or RMSNorm
    is_gated: bool = False  # of layers' perceptrons
    has_patch_bias: bool = True
    full_layers: tuple[int, ...] | None = None  # whose patches attend to all, and not within windows; None: every layer

    @property
    def patch_numbers(self) -> int:
        """Numbers in a patch of one picture."""
        return 3 * self.patch_size**2


@dataclass(frozen=True)
class AxialAttention(SelfAttention):
    """The same of queries and keys that are turned, each head's by the patch's row and column.

    Within windows of ``window_rows`` patches, which lie beside each other, where there are any; all of them are full,
    so that they make a batch.
    """

    window_rows: int | None = None

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, qkv: str) -> str:
        """(1, P, 3 * width) to (1, P, width)."""
        size = self.width // self.num_heads
        parts = graph.nodes("Split", [qkv, graph.ints(self.width, self.width, self.width)], 3, axis=-1)
        turned = []
        for part in parts[:2]:
            heads = graph.node("Reshape", [part, graph.ints(1, -1, self.num_heads, size)])
            low, high = graph.nodes("Split", [heads], 2, axis=-1, num_outputs=2)
            cos, sin = _ROTATION
            both = [
                graph.node(operator, [graph.node("Mul", [a, cos]), graph.node("Mul", [b, sin])])
                for operator, a, b in (("Sub", low, high), ("Add", high, low))
            ]
            rows = graph.node("Concat", both, axis=-1)
            turned.append(graph.node("Reshape", [rows, graph.ints(1, -1, self.width)]))
        qkv = graph.node("Concat", [*turned, parts[2]], axis=-1)
        if self.window_rows is None:
            return super().emit(graph, lowering, weights, qkv)
        windows = graph.node("Reshape", [qkv, graph.ints(-1, self.window_rows, 3 * self.width)])
        context = super().emit(graph, lowering, weights, windows)
        return graph.node("Reshape", [context, graph.ints(1, -1, self.width)])


@dataclass(frozen=True)
class PatchMerger:
    """The patches of a token side by side, through a perceptron: ``features`` (1, P, Dv) to (1, P / m^2, D).

    The norm is each patch's, or that of the token (``norms_tokens``).
    """

    prefix: str
    config: NativeVitConfig
    norms_tokens: bool = False
    names: tuple[str, str, str] = ("norm", "linear_fc1", "linear_fc2")

    @property
    def _width(self) -> int:
        return self.config.hidden_size * self.config.grids.merge**2

    @property
    def _norm(self) -> Norm:
        width = self._width if self.norms_tokens else self.config.hidden_size
        return Norm(self.names[0], width, self.config.layer_norm_eps, has_mean=self.config.has_means)

    @property
    def _mlp(self) -> Mlp:
        first = projection(self.names[1], self._width, self._width, has_bias=True, kind="merger")
        second = projection(self.names[2], self.config.out_width, self._width, has_bias=True, kind="merger")
        return Mlp(first, second, "gelu")

    def parameters(self) -> dict[str, Parameter]:
        """Of the norm and the perceptron."""
        return under(self.prefix, {**self._norm.parameters(), **self._mlp.parameters()})

    def folds(self) -> Iterator[Fold]:
        """Of a token's norm; a patch's has one entry for several channels of the perceptron."""
        if self.norms_tokens:
            yield from folds_under(self.prefix, (Fold(self._mlp.first.name, self._norm.vectors),))

    def products(self) -> tuple[str, ...]:
        """None."""
        return ()

    def emit_rows(self, graph: Graph, lowering: OpLowering, weights: Weights, x: str) -> str:
        """(1, P, Dv) to (1, P / m^2, D)."""
        mine, joined = weights.under(self.prefix), graph.ints(1, -1, self._width)
        if self.norms_tokens:
            x = self._norm.emit(graph, lowering, mine, graph.node("Reshape", [x, joined]))
        else:
            x = graph.node("Reshape", [self._norm.emit(graph, lowering, mine, x), joined])
        return self._mlp.emit(graph, lowering, mine, x)

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """As a component of its own, the connector."""
        patches, tokens = self.config.grids.free_or
        features = graph.input("features", lowering.dtype, (1, patches, self.config.hidden_size))
        merged = self.emit_rows(graph, lowering, weights, features)
        graph.output("image_embeddings", lowering.dtype, (1, tokens, self.config.out_width), merged)


@dataclass(frozen=True)
class NativeTower:
    """``pixel_values`` (1, P, 3 h w) to ``features`` (1, P, Dv), and to ``deepstack.N`` (1, T, D) behind some layers.

    Deepstack: Meng et al. 2024, "DeepStack: Deeply Stacking Visual Tokens is Surprisingly Simple and Effective".
    """

    config: NativeVitConfig

    @property
    def _patches(self) -> Projection:
        config = self.config
        kernel = (3, config.frames, config.patch_size, config.patch_size)
        has_bias = config.has_patch_bias
        return projection("patch_embed.proj", config.hidden_size, kernel, has_bias=has_bias, kind="patch")

    @property
    def _layers(self) -> tuple[TransformerLayer, ...]:
        return tuple(_layer(self.config, number) for number in range(self.config.num_layers))

    @property
    def _mergers(self) -> tuple[PatchMerger, ...]:
        return tuple(
            PatchMerger(f"deepstack_merger_list.{i}.", self.config, norms_tokens=True)
            for i in range(len(self.config.taps))
        )

    def parameters(self) -> dict[str, Parameter]:
        """Of the patches, the learned positions, all layers and what takes maps from behind them."""
        found = [self._patches.parameters(), *(layer.parameters() for layer in self._layers)]
        if self.config.table_side:
            found.append({"pos_embed.weight": Parameter((self.config.table_side**2, self.config.hidden_size))})
        found += [merger.parameters() for merger in self._mergers]
        return {name: parameter for parameters in found for name, parameter in parameters.items()}

    def folds(self) -> Iterator[Fold]:
        """Of all layers, and of what takes maps from behind them."""
        for layer in self._layers:
            yield from layer.folds()
        for merger in self._mergers:
            yield from merger.folds()

    def products(self) -> tuple[str, ...]:
        """What attentions multiply, a name a layer."""
        return tuple(name for layer in self._layers for name in layer.products())

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """Its nodes."""
        config = self.config
        patches, tokens = config.grids.free_or
        pixels = graph.input("pixel_values", "float32", (1, patches, config.patch_numbers))
        chosen = graph.input(PATCH_ROWS, "int32", (patches,)) if isinstance(patches, str) else None
        pixels = lowering.from_float32(graph, pixels)
        if config.frames > 1:  # a still stands for all of a patch's frames
            channels = graph.node("Reshape", [pixels, graph.ints(1, -1, 3, 1, config.patch_size**2)])
            repeated = graph.node("Concat", [channels] * config.frames, axis=3)
            pixels = graph.node("Reshape", [repeated, graph.ints(1, -1, config.frames * config.patch_numbers)])
        hidden = self._patches.emit(graph, lowering, weights, pixels)
        places, order = config.grids.places(), config.grids.window_order()
        if config.table_side:
            table = np.asarray(weights.vector("pos_embed.weight"), np.float32)
            positions = _resampled(table.reshape(config.table_side, config.table_side, -1), places)
            hidden = graph.node("Add", [hidden, _of_patches(graph, lowering, "positions", positions[None], chosen)])
        if config.grids.window > 1:
            hidden = _reordered(graph, hidden, "window_order", order, chosen)
            places = places[config.grids.first_patches() + order]
        angles = axial_angles(places[:, :2], config.hidden_size // config.num_heads, config.theta)
        for name, values in zip(_ROTATION, (np.cos(angles), np.sin(angles)), strict=True):
            table_of = np.asarray(values, np.float32)[None, :, None]
            graph.nodes("Identity", [_of_patches(graph, lowering, f"{name}.table", table_of, chosen)], [name])
        states = emit_layers(graph, lowering, weights, self._layers, hidden)
        for layer, (tap, merger) in enumerate(zip(config.taps, self._mergers, strict=True)):
            graph.scope = f"deepstack.{layer}/"
            merged = merger.emit_rows(graph, lowering, weights, states[tap])
            graph.output(f"{DEEPSTACK}{layer}", lowering.dtype, (1, tokens, config.out_width), merged)
        graph.scope = ""
        features = states[-1]
        if config.grids.window > 1:
            firsts = config.grids.first_patches()
            back = np.argsort(firsts + order) - firsts
            features = _reordered(graph, features, "token_order", back, chosen)
        graph.output("features", lowering.dtype, (1, patches, config.hidden_size), features)


def _layer(config: NativeVitConfig, number: int) -> TransformerLayer:
    """A layer of Qwen's vision models, by its names."""
    width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    stacked = StoredMatrix("attn.qkv", 3 * width, "qkv")
    is_full = config.full_layers is None or number in config.full_layers
    window_rows = None if is_full else (config.grids.window * config.grids.merge) ** 2
    return TransformerLayer(
        prefix=f"blocks.{number}.",
        number=number,
        attention_norm=Norm("norm1", width, eps, has_mean=config.has_means),
        qkv=Projection("attn.qkv", width, (stacked,), has_bias=True),
        attention=AxialAttention("attn", config.num_heads, width, window_rows),
        out=projection("attn.proj", width, width, has_bias=True, kind="o"),
        mlp_norm=Norm("norm2", width, eps, has_mean=config.has_means),
        mlp=_gated_mlp(width, inner, config.activation) if config.is_gated else _mlp(width, inner, config.activation),
    )


def _mlp(width: int, inner: int, activation: str) -> Mlp:
    first = projection("mlp.linear_fc1", inner, width, has_bias=True, kind="ffn")
    return Mlp(first, projection("mlp.linear_fc2", width, inner, has_bias=True, kind="ffn"), activation)


def _gated_mlp(width: int, inner: int, activation: str) -> GatedMlp:
    stored = tuple(StoredMatrix(f"mlp.{name}", inner, "ffn") for name in ("gate_proj", "up_proj"))
    gate_up = Projection("mlp.gate_up_proj", width, stored, has_bias=True)
    return GatedMlp(gate_up, projection("mlp.down_proj", width, inner, has_bias=True, kind="ffn"), activation)


def axial_angles(places: NDArray[np.int64], head_dim: int, theta: float) -> NDArray[np.float64]:
    """Radians by which pairs of a head are turned at places (N, 2): a half of them by the row, the rest by the column.

    Heo et al. 2024, "Rotary Position Embedding for Vision Transformer", section 3.1.
    """
    frequencies = theta ** -(np.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles: NDArray[np.float64] = (places[:, :, None] * frequencies).reshape(len(places), -1)
    return angles


def _resampled(table: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Learned positions (side, side, D) between whose corners a grid is stretched, by two lines: (N, D)."""
    side = len(table)
    corners, shares = [], []
    for axis in (0, 1):
        # In float32, as transformers computes it: a weight may be on the other side of a whole number otherwise.
        at = places[:, axis].astype(np.float32) * np.float32(side - 1) / np.maximum(places[:, 2 + axis] - 1, 1)
        below = np.floor(at).astype(np.int64)
        corners.append((below, np.minimum(below + 1, side - 1)))
        shares.append((1 - (at - below), at - below))
    total = np.zeros((len(places), table.shape[-1]), np.float32)
    for i, j in np.ndindex(2, 2):
        share = (shares[0][i] * shares[1][j]).astype(np.float32)
        total += table[corners[0][i], corners[1][j]] * share[:, None]
    return total


def _of_patches(graph: Graph, lowering: OpLowering, name: str, table: NDArray[np.float32], chosen: str | None) -> str:
    """The rows (1, P, ...) of a table (1, N, ...) that belong to the picture's patches."""
    constant = lowering.constant(graph, name, table)
    return constant if chosen is None else graph.node("Gather", [constant, chosen], axis=1)


def _reordered(graph: Graph, x: str, name: str, order: NDArray[np.int64], chosen: str | None) -> str:
    """The rows (1, P, D) in another order, of a table of the orders of all grids."""
    numbers = graph.weight(name, order)
    mine = numbers if chosen is None else graph.node("Gather", [numbers, chosen], axis=0)
    return graph.node("Gather", [x, mine], axis=1)
