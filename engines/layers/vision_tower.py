"""Vision transformers from pixels to the features of chosen layers, CLIP's among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.layers.attention import SelfAttention
from engines.layers.folds import Fold
from engines.layers.mlp import Mlp
from engines.layers.norm import Norm
from engines.layers.op_lowering import OpLowering
from engines.layers.parameters import Parameter, under
from engines.layers.projection import Projection, StoredMatrix, projection
from engines.layers.transformer import TransformerLayer, emit_layers
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a CLIP vision transformer, and what of it is used."""

    image_size: int  # pixels a side
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    all_layers: int  # of the checkpoint; those behind the last that is read are left out
    feature_layers: tuple[int, ...]  # numbers of layers behind which features are read, side by side in this order
    activation: str
    layer_norm_eps: float
    keep_class_token: bool
    has_class_token: bool = True

    @property
    def num_layers(self) -> int:
        """Layers up to the last one that is read."""
        return max(self.feature_layers)

    @property
    def feature_width(self) -> int:
        """Numbers in a row that the encoder puts out."""
        return self.hidden_size * len(self.feature_layers)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def num_features(self) -> int:
        """Rows that the encoder puts out."""
        return self.grid**2 + self.keep_class_token

    @property
    def num_rows(self) -> int:
        """Rows that its layers see."""
        return self.grid**2 + self.has_class_token


@dataclass(frozen=True)
class PatchEmbedding:
    """Patches of a square picture, each a row, behind a class token where there is one; positions are learned.

    The patch convolution's stride is its kernel, so it is a matrix product, and quantizes like one.
    """

    prefix: str
    image_size: int
    patch_size: int
    width: int
    class_row: str | None = "class_embedding"  # names as ``CLIPVisionModel`` has them
    positions: str = "position_embedding.weight"
    convolution: str = "patch_embedding"
    has_bias: bool = False
    is_batched: bool = False  # whether class row and positions are stored as those of one image: (1, rows, width)

    @property
    def matrix(self) -> Projection:
        """The patch convolution."""
        kernel = (3, self.patch_size, self.patch_size)
        return projection(self.convolution, self.width, kernel, has_bias=self.has_bias, kind="patch")

    def parameters(self) -> dict[str, Parameter]:
        """Its tensors."""
        rows = (self.image_size // self.patch_size) ** 2 + (self.class_row is not None)
        one, table = ((1, 1), (1, rows)) if self.is_batched else ((), (rows,))
        found = {**self.matrix.parameters(), self.positions: Parameter((*table, self.width))}
        if self.class_row is not None:
            found[self.class_row] = Parameter((*one, self.width))
        return under(self.prefix, found)

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> str:
        """``pixel_values`` (1, 3, H, W) to (1, P, D), or (1, 1 + P, D): the class token first."""
        mine = weights.under(self.prefix)
        size, patch = self.image_size, self.patch_size
        grid = size // patch
        pixels = lowering.from_float32(graph, graph.input("pixel_values", "float32", (1, 3, size, size)))
        if size % patch:  # a convolution ignores the rest
            used = graph.ints(grid * patch, grid * patch)
            pixels = graph.node("Slice", [pixels, graph.ints(0, 0), used, graph.ints(2, 3)])
        blocks = graph.node("Reshape", [pixels, graph.ints(3, grid, patch, grid, patch)])
        blocks = graph.node("Transpose", [blocks], perm=(1, 3, 0, 2, 4))  # (grid, grid, 3, patch, patch)
        rows = graph.node("Reshape", [blocks, graph.ints(1, grid * grid, 3 * patch * patch)])
        projected = self.matrix.emit(graph, lowering, mine, rows)
        positions = mine.vector(self.positions).reshape(-1, self.width)  # (1 + P, D), the class token's first
        if self.class_row is None:
            return graph.node("Add", [projected, lowering.constant(graph, "positions", positions[None])])
        class_row = mine.vector(self.class_row).reshape(-1).astype("float32") + positions[0]
        placed = graph.node("Add", [projected, lowering.constant(graph, "positions", positions[None, 1:])])
        first = lowering.constant(graph, "class_row", class_row[None, None])
        return graph.node("Concat", [first, placed], axis=1)


@dataclass(frozen=True)
class VisionTower:
    """``pixel_values`` (1, 3, H, W) to ``features`` (1, P, Dv): what chosen layers put out, or the last one behind its
    norm."""

    patches: PatchEmbedding
    pre_norm: Norm | None
    layers: tuple[TransformerLayer, ...]
    config: VitConfig
    post_norm: Norm | None = None

    def parameters(self) -> dict[str, Parameter]:
        """Of the patches, the norm before the layers, the layers, and the norm behind them."""
        parts = (self.patches, self.pre_norm, *self.layers, self.post_norm)
        return {name: p for part in parts if part is not None for name, p in part.parameters().items()}

    def folds(self) -> Iterator[Fold]:
        """Of all layers."""
        for layer in self.layers:
            yield from layer.folds()

    def products(self) -> tuple[str, ...]:
        """What attentions multiply, a name a layer."""
        return tuple(name for layer in self.layers for name in layer.products())

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """Its nodes; the class token is dropped unless the configuration keeps it."""
        config = self.config
        hidden = self.patches.emit(graph, lowering, weights)
        if self.pre_norm is not None:
            hidden = self.pre_norm.emit(graph, lowering, weights, hidden)
        states = emit_layers(graph, lowering, weights, self.layers, hidden)
        hidden = states[-1]
        if len(config.feature_layers) > 1:
            hidden = graph.node("Concat", [states[layer - 1] for layer in config.feature_layers], axis=-1)
        if self.post_norm is not None:
            hidden = self.post_norm.emit(graph, lowering, weights, hidden)
        if config.has_class_token and not config.keep_class_token:
            hidden = graph.node("Slice", [hidden, graph.ints(1), graph.ints(config.num_features + 1), graph.ints(1)])
        graph.output("features", lowering.dtype, (1, config.num_features, config.feature_width), hidden)


def clip_tower(config: VitConfig, num_layers: int | None = None) -> VisionTower:
    """Hugging Face's ``CLIPVisionModel``, as far as it is read, or its first ``num_layers`` layers."""
    width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    return VisionTower(
        PatchEmbedding("embeddings.", config.image_size, config.patch_size, width),
        Norm("pre_layrnorm", width, eps, has_mean=True),  # CLIP's own spelling
        tuple(
            vision_layer(f"encoder.layers.{number}.", number, width, inner, config.num_heads, config.activation, eps)
            for number in range(config.num_layers if num_layers is None else num_layers)
        ),
        config,
    )


def vision_layer(
    prefix: str, number: int, width: int, inner: int, num_heads: int, activation: str, epsilon: float
) -> TransformerLayer:
    """A layer of CLIP's vision transformer, and of those that have its names."""
    parts = (("q_proj", "qk"), ("k_proj", "qk"), ("v_proj", "v"))
    stored = tuple(StoredMatrix(f"self_attn.{name}", width, kind) for name, kind in parts)
    return TransformerLayer(
        prefix=prefix,
        number=number,
        attention_norm=Norm("layer_norm1", width, epsilon, has_mean=True),
        qkv=Projection("self_attn.qkv_proj", width, stored, has_bias=True),
        attention=SelfAttention("self_attn", num_heads, width),
        out=projection("self_attn.out_proj", width, width, has_bias=True, kind="o"),
        mlp_norm=Norm("layer_norm2", width, epsilon, has_mean=True),
        mlp=Mlp(
            projection("mlp.fc1", inner, width, has_bias=True, kind="ffn"),
            projection("mlp.fc2", width, inner, has_bias=True, kind="ffn"),
            activation,
        ),
    )
