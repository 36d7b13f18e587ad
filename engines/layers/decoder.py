"""The LLaMA decoder: groups of layers, and the head that turns hidden states into logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.bundle.manifest import DEEPSTACK, RotarySpec
from engines.layers.folds import Fold
from engines.layers.mlp import GatedMlp
from engines.layers.norm import Norm
from engines.layers.op_lowering import CausalAttention, OpLowering
from engines.layers.parameters import Parameter
from engines.layers.projection import Projection, StoredMatrix, projection
from engines.layers.transformer import TransformerLayer, emit_layers, keeping_last_row
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.quantize.methods.fold import Producers, head_producers


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a LLaMA decoder."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rotary: RotarySpec
    activation: str
    has_query_key_norms: bool = False  # each head of queries and keys is normalized before it is turned
    has_qkv_biases: bool = False
    deepstack_layers: int = 0  # the first ones, behind which maps of the vision encoder are added

    @property
    def heads(self) -> CausalAttention:
        """Sizes of the attention."""
        return CausalAttention(self.num_heads, self.num_kv_heads, self.head_dim)


@dataclass(frozen=True)
class CachedAttention:
    """Rows attend to the cache and to rows before them; heads of queries and keys may be normalized first."""

    layer: int
    sizes: CausalAttention
    head_norms: tuple[Norm, ...] = ()  # of queries and of keys

    def parameters(self) -> dict[str, Parameter]:
        """Of the heads' norms."""
        return {name: p for norm in self.head_norms for name, p in norm.parameters().items()}

    def producers(self) -> Producers:
        """Heads of a group share the rows of their value."""
        return head_producers(self.sizes.num_heads, self.sizes.num_kv_heads, self.sizes.head_dim)

    def products(self) -> tuple[str, ...]:
        """None: an engine's own operator keeps floating point."""
        return ()

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights, qkv: str) -> str:
        """(1, T, (H + 2 Hkv) d) to (1, T, H d); declares the cache's inputs and outputs."""
        if self.head_norms:
            qkv = self._norm_heads(graph, lowering, weights, qkv)
        return lowering.causal_attention(graph, qkv, self.layer, self.sizes)

    def _norm_heads(self, graph: Graph, lowering: OpLowering, weights: Weights, qkv: str) -> str:
        """Each head of queries and keys normalized by its root mean square, values as they are."""
        size, counts = self.sizes.head_dim, (self.sizes.num_heads, self.sizes.num_kv_heads)
        parts = graph.nodes("Split", [qkv, graph.ints(*(n * size for n in (*counts, counts[1])))], 3, axis=-1)
        normed = []
        for part, count, norm in zip(parts, counts, self.head_norms, strict=False):
            rows = graph.node("Reshape", [part, graph.ints(1, -1, size)])  # (1, T H, d)
            rows = norm.emit(graph, lowering, weights, rows)
            normed.append(graph.node("Reshape", [rows, graph.ints(1, -1, count * size)]))
        return graph.node("Concat", [*normed, parts[2]], axis=-1)


def decoder_layer(config: LlamaConfig, number: int, attention: str = "self_attn") -> TransformerLayer:
    """A layer of ``LlamaModel``, by the names of Hugging Face's; ``attention`` is what its attention is called."""
    width, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_heads * size, config.num_kv_heads * size
    eps = config.rms_norm_eps
    names = ("q_norm", "k_norm") if config.has_query_key_norms else ()
    return TransformerLayer(
        prefix=f"layers.{number}.",
        number=number,
        attention_norm=Norm("input_layernorm", width, eps),
        qkv=Projection(
            f"{attention}.qkv_proj",
            width,
            (
                StoredMatrix(f"{attention}.q_proj", queries, "qk"),
                StoredMatrix(f"{attention}.k_proj", keys, "qk"),
                StoredMatrix(f"{attention}.v_proj", keys, "v"),
            ),
            config.has_qkv_biases,
        ),
        attention=CachedAttention(number, config.heads, tuple(Norm(f"{attention}.{n}", size, eps) for n in names)),
        out=projection(f"{attention}.o_proj", width, queries, kind="o"),
        joined_by=f"{DEEPSTACK}{number}" if number < config.deepstack_layers else None,
        mlp_norm=Norm("post_attention_layernorm", width, eps),
        mlp=GatedMlp(
            Projection(
                "mlp.gate_up_proj",
                width,
                tuple(StoredMatrix(f"mlp.{name}", inner, "gate_up") for name in ("gate_proj", "up_proj")),
            ),
            projection("mlp.down_proj", width, inner, kind="down"),
            config.activation,
        ),
    )


@dataclass(frozen=True)
class DecoderGroup:
    """The decoder's layers ``[first, end)``, which an engine holds."""

    config: LlamaConfig
    first: int
    end: int

    @property
    def layers(self) -> tuple[TransformerLayer, ...]:
        """Its layers; of the decoder's last, one row is read, and keys and values are there for all."""
        layers = tuple(decoder_layer(self.config, number) for number in range(self.first, self.end))
        return keeping_last_row(layers) if self.end == self.config.num_layers else layers

    def parameters(self) -> dict[str, Parameter]:
        """Of all its layers."""
        return {name: p for layer in self.layers for name, p in layer.parameters().items()}

    def folds(self) -> Iterator[Fold]:
        """Of all its layers."""
        for layer in self.layers:
            yield from layer.folds()

    def products(self) -> tuple[str, ...]:
        """None."""
        return ()

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """``hidden_states`` (1, T, D) to ``hidden_states_out``, with the caches between; (1, 1, D) behind the decoder's
        last layer."""
        width = self.config.hidden_size
        hidden = graph.input("hidden_states", lowering.dtype, (1, "T", width))
        hidden = emit_layers(graph, lowering, weights, self.layers, hidden)[-1]
        rows = 1 if self.end == self.config.num_layers else "T"
        graph.output("hidden_states_out", lowering.dtype, (1, rows, width), hidden)


@dataclass(frozen=True)
class LmHead:
    """The final norm and the vocabulary's projection, which may be the embedding's own matrix, or part of its rows."""

    norm: Norm
    matrix: Projection

    def parameters(self) -> dict[str, Parameter]:
        """Of both."""
        return {**self.norm.parameters(), **self.matrix.parameters()}

    def folds(self) -> Iterator[Fold]:
        """The norm takes what the matrix' inputs are divided by."""
        yield Fold(self.matrix.name, self.norm.vectors)

    def products(self) -> tuple[str, ...]:
        """None."""
        return ()

    def emit(self, graph: Graph, lowering: OpLowering, weights: Weights) -> None:
        """``hidden_states`` (1, T, D) to ``logits`` (1, T, V), where V is the number of rows that ``weights`` give."""
        hidden = graph.input("hidden_states", lowering.dtype, (1, "T", self.norm.width))
        normed = self.norm.emit(graph, lowering, weights, hidden)
        linear = weights.linear(self.matrix.name)
        logits = lowering.linear(graph, normed, linear)
        graph.output("logits", "float32", (1, "T", linear.width), lowering.to_float32(graph, logits))
