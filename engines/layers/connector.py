"""The two-layer perceptron between vision encoder and language model, as an ONNX graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.layers.op_lowering import OpLowering
from engines.layers.ptq4vit import linear_behind_gelu
from engines.layers.weights import Weights
from engines.onnx.builder import Graph


def emit_connector(
    graph: Graph,
    lowering: OpLowering,
    weights: Weights,
    *,
    rows: int,
    width_in: int,
    width_out: int,
    activation: str,
    newline: NDArray[np.float16] | None = None,
) -> None:
    """Emit ``features`` (1, P, Dv) to ``image_embeddings`` (1, P, D); a ``newline`` (D,) is one more row behind
    them."""
    features = graph.input("features", lowering.dtype, (1, rows, width_in))
    inner = lowering.linear(graph, features, weights.linear("linear_1"))
    inner = lowering.activation(graph, inner, activation)
    outer = linear_behind_gelu(graph, lowering, inner, weights, "linear_2")
    if newline is not None:
        last = lowering.constant(graph, "image_newline", newline[None, None])
        outer, rows = graph.node("Concat", [outer, last], axis=1), rows + 1
    graph.output("image_embeddings", lowering.dtype, (1, rows, width_out), outer)
