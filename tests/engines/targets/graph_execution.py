"""Graphs in TensorRT's lowering executed by ONNX Runtime, as the runtime would execute the engines made from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_runtime.language.positions import ROTARY_INPUTS, rotary_tables
from edge_runtime.vision.image_processors import ImageLayout
from engines.checkpoint import Checkpoint
from engines.evaluation.fidelity import Trace
from engines.families import read_model
from engines.families.base import Part
from engines.families.heads import split_head
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.quantize.methods.rtn import Int4Matrix, dequantize
from engines.quantize.recipe import PrecisionPlan

Float32 = NDArray[np.float32]

BUCKET = 256  # tokens by which the cache that a step reads grows


def emit(directory: Path, part: Part, checkpoint: Checkpoint, precisions: PrecisionPlan) -> Graph:
    """Write one component's graph."""
    with Graph(directory / f"{part.name}.onnx") as graph:
        part.emit(graph, TensorRTLowering(), checkpoint, precisions.components[part.role])
        graph.save()
    return graph


class GraphDecoder:
    """A checkpoint's graphs, written to a directory and loaded; with ``prefill`` and ``append`` as the runtime's."""

    def __init__(
        self,
        directory: Path,
        checkpoint: Checkpoint,
        precisions: PrecisionPlan,
        before_image: Sequence[int],
        *,
        head_parameters: int | None = None,
        **options: int,
    ) -> None:
        model = read_model(checkpoint, **options)
        parts = [piece for part in model.parts for piece in split_head(part, head_parameters)]
        self._sessions = {
            part.name: _open_session(directory / f"{part.name}.onnx")
            for part in parts
            if part.emit and emit(directory, part, checkpoint, precisions)
        }
        self._groups = [part for part in model.parts if part.role == "decoder"]
        self._heads = [self._sessions[part.name] for part in parts if part.role == "lm_head"]
        [rows_part] = [part for part in model.parts if part.role == "embedding"]
        [rows_name] = rows_part.parameters
        table = Weights(checkpoint, precisions.components["embedding"]).rows(rows_name.removesuffix(".weight"))
        self._table = dequantize(table).astype(np.float16) if isinstance(table, Int4Matrix) else table
        shape = (1, model.spec.max_positions, model.spec.num_kv_heads, model.spec.head_dim)
        self._cache = {
            f"{part}.{layer}": np.zeros(shape, np.float16)
            for layer in range(model.spec.num_layers)
            for part in ("key", "value")
        }
        tables = rotary_tables(model.positions.rotary, model.spec.max_positions)
        self._tables = dict(zip(ROTARY_INPUTS, tables, strict=True))
        self._length = 0
        self._step(self._rows(before_image))
        self._prefix_length = self._length

    def see(self, pixels: Float32) -> tuple[Any, Any]:
        """Features (1, P, Dv) and image rows (1, P, D) of pixels (1, 3, H, W)."""
        [features] = self._sessions["vision_encoder"].run(None, {"pixel_values": pixels})
        [rows] = self._sessions["connector"].run(None, {"features": features})
        return features, rows

    def prefill(self, image_rows: Any, tokens: Sequence[int]) -> Float32:
        """The logits (V,) after the image's rows and ``tokens``."""
        self._length = self._prefix_length
        return self._step(np.concatenate([image_rows, self._rows(tokens)], axis=1))

    def append(self, tokens: Sequence[int]) -> Float32:
        """The logits (V,) after ``tokens``."""
        return self._step(self._rows(tokens))

    def trace(
        self, pixels: Float32, after_image: Sequence[int], tokens: Sequence[int], layout: ImageLayout | None = None
    ) -> Trace:
        """What happens when led along ``tokens``; ``layout`` is that of a frame in tiles."""
        seen = [self.see(pixels[i : i + 1]) for i in range(len(pixels))]
        features, rows = (np.concatenate([part[0] for part in parts]) for parts in zip(*seen, strict=True))
        if layout is not None:
            tensors, rows = rows, np.empty((layout.tokens, rows.shape[1]), rows.dtype)
            layout.pack(tensors, self._table.__getitem__, rows)
        logits = [self.prefill(rows[None], after_image), *(self.append([token]) for token in tokens[:-1])]
        return Trace(features.astype(np.float32), rows.astype(np.float32), np.stack(logits), tuple(tokens))

    def _rows(self, tokens: Sequence[int]) -> Any:
        return self._table[list(tokens)][None]

    def _step(self, hidden: Any) -> Float32:
        capacity = max(-(-self._length // BUCKET) * BUCKET, BUCKET)
        present = slice(self._length, self._length + hidden.shape[1])  # where new rows go
        for group in self._groups:
            names = [f"{part}.{layer}" for layer in range(*group.layers or ()) for part in ("key", "value")]
            past = {f"past_{name}": self._cache[name][:, :capacity] for name in names}
            inputs = {
                "hidden_states": hidden,
                "past_length": np.array([self._length], np.int32),
                **past,
                **self._tables,
            }
            outputs = ["hidden_states_out", *(f"new_{name}" for name in names)]
            hidden, *new = self._sessions[group.name].run(outputs, inputs)
            for name, rows in zip(names, new, strict=True):
                self._cache[name][:, present] = rows
        self._length = present.stop
        return np.concatenate([head.run(None, {"hidden_states": hidden[:, -1:]})[0][0, 0] for head in self._heads])


def _open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # or activations become int8
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
