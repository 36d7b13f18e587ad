"""The CLIP vision transformer as an ONNX graph, from pixels to the features of chosen layers."""

from __future__ import annotations

from dataclasses import dataclass

from engines.layers.attention import emit_attention
from engines.layers.op_lowering import OpLowering
from engines.layers.ptq4vit import linear_behind_gelu
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.onnx.tensors import PRODUCTS


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a CLIP vision transformer, and what of it is used."""

    image_size: int  # pixels a side
    patch_size: int
    hidden_size: int
    num_heads: int
    feature_layers: tuple[int, ...]  # numbers of layers behind which features are read, side by side in this order
    activation: str
    layer_norm_eps: float
    keep_class_token: bool

    @property
    def num_layers(self) -> int:
        """Layers up to the last one that is read; later ones are left out."""
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


def emit_vit(graph: Graph, lowering: OpLowering, weights: Weights, config: VitConfig) -> None:
    """Emit ``pixel_values`` (1, 3, H, W) to ``features`` (1, P, Dv), before any final norm.

    The class token is dropped unless the configuration keeps it. Weights are named as in Hugging Face's
    ``CLIPVisionModel``.
    """

    def layer_norm_weights(name: str) -> tuple[str, str]:
        scale, bias = f"{name}.weight", f"{name}.bias"
        return (
            lowering.constant(graph, scale, weights.vector(scale)),
            lowering.constant(graph, bias, weights.vector(bias)),
        )

    eps = config.layer_norm_eps
    hidden = _embed_patches(graph, lowering, weights.under("embeddings."), config)
    hidden = lowering.layer_norm(graph, hidden, *layer_norm_weights("pre_layrnorm"), eps)  # CLIP's own spelling
    normed = lowering.layer_norm(graph, hidden, *layer_norm_weights("encoder.layers.0.layer_norm1"), eps)
    states: dict[int, str] = {}  # what each layer puts out
    for i in range(config.num_layers):
        layer = f"encoder.layers.{i}."
        graph.scope = f"layers.{i}/"
        parts = (f"{layer}self_attn.{part}_proj" for part in "qkv")
        qkv = lowering.linear(graph, normed, weights.linear(f"{layer}self_attn.qkv_proj", *parts))  # (1, P, 3 Dv)
        products = f"{layer}self_attn.{PRODUCTS}"
        context = emit_attention(graph, lowering, qkv, weights, products, config.num_heads, config.hidden_size)
        attended = lowering.linear(graph, context, weights.linear(f"{layer}self_attn.out_proj"))
        normed, hidden = lowering.add_layer_norm(
            graph, attended, hidden, *layer_norm_weights(f"{layer}layer_norm2"), eps
        )
        inner = lowering.linear(graph, normed, weights.linear(f"{layer}mlp.fc1"))
        inner = lowering.activation(graph, inner, config.activation)
        outer = linear_behind_gelu(graph, lowering, inner, weights, f"{layer}mlp.fc2")
        if i + 1 < config.num_layers:
            norm = layer_norm_weights(f"encoder.layers.{i + 1}.layer_norm1")
            normed, hidden = lowering.add_layer_norm(graph, outer, hidden, *norm, eps)
        else:
            hidden = graph.node("Add", [outer, hidden])
        states[i + 1] = hidden
    graph.scope = ""
    if len(config.feature_layers) > 1:
        hidden = graph.node("Concat", [states[layer] for layer in config.feature_layers], axis=-1)
    if not config.keep_class_token:
        hidden = graph.node("Slice", [hidden, graph.ints(1), graph.ints(config.num_features + 1), graph.ints(1)])
    graph.output("features", lowering.dtype, (1, config.num_features, config.feature_width), hidden)


def _embed_patches(graph: Graph, lowering: OpLowering, weights: Weights, config: VitConfig) -> str:
    """Cut the image into patches, project them, put the class token first, and add the positions: (1, 1 + P, Dv).

    The patch convolution's stride is its kernel, so it is a matrix product, and quantizes like one.
    """
    size, patch = config.image_size, config.patch_size
    grid = size // patch
    pixels = lowering.from_float32(graph, graph.input("pixel_values", "float32", (1, 3, size, size)))
    if size % patch:  # a convolution ignores the rest
        used = graph.ints(grid * patch, grid * patch)
        pixels = graph.node("Slice", [pixels, graph.ints(0, 0), used, graph.ints(2, 3)])
    blocks = graph.node("Reshape", [pixels, graph.ints(3, grid, patch, grid, patch)])
    blocks = graph.node("Transpose", [blocks], perm=(1, 3, 0, 2, 4))  # (grid, grid, 3, patch, patch)
    rows = graph.node("Reshape", [blocks, graph.ints(1, grid * grid, 3 * patch * patch)])
    projected = lowering.linear(graph, rows, weights.linear("patch_embedding"))
    positions = weights.vector("position_embedding.weight")  # (1 + P, Dv), the class token's first
    class_row = weights.vector("class_embedding").astype("float32") + positions[0]
    placed = graph.node("Add", [projected, lowering.constant(graph, "positions", positions[None, 1:])])
    first = lowering.constant(graph, "class_row", class_row[None, None])
    return graph.node("Concat", [first, placed], axis=1)
