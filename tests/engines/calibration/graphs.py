"""Small graphs for tests, and the components of a tiny model as graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from edge_runtime.language.tokenizer import PromptTokens
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.onnx.builder import Graph
from engines.quantize.recipe import Precision

TINY = open_checkpoint("synthetic:tiny-llava")
MODEL = read_model(TINY, group_parameters=300_000)  # the decoder in two groups
PROMPT = PromptTokens((1, 60, 61), (40, 41, 42, 43))
FLOAT16 = Precision("float16", "cast", None)


class TinyEmbedding:
    """The embedding of the tiny model, in memory."""

    def rows(self, ids: Any) -> Any:
        table = TINY.tensor("language_model.model.embed_tokens.weight")
        return table[list(ids)].astype(np.float32)


def emit_parts(directory: Path, lowering: Any = OnnxRuntimeLowering) -> dict[str, Path]:
    """Every component of the tiny model as a graph, by name and in order."""
    paths = {}
    for part in MODEL.parts:
        if part.emit is not None:
            paths[part.name] = directory / f"{part.name}.onnx"
            with Graph(paths[part.name]) as graph:
                part.emit(graph, lowering(), TINY, FLOAT16)
                graph.save()
    return paths


def two_layers(dtype: str = "float32", gain: float = 1.0, seed: int = 3) -> Any:
    """A model of two matrix products with a ReLU between, named as a person would, (1, T, 8) to (1, T, 4)."""
    rng = np.random.default_rng(seed)
    real = np.dtype(dtype).type
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {
        "first.weight": (rng.normal(size=(8, 16)) * gain).astype(real),
        "second.weight": (rng.normal(size=(16, 4)) / gain).astype(real),
        "second.bias": rng.normal(size=4).astype(real),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["wide"], name="first"),
        helper.make_node("Relu", ["wide"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "second.weight"], ["narrow"], name="second"),
        helper.make_node("Add", ["narrow", "second.bias"], ["y"], name="shift"),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", element, (1, "T", 8))],
        [helper.make_tensor_value_info("y", element, (1, "T", 4))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def save(model: Any, path: Path) -> Path:
    save_model(model, str(path))
    return path


def element_type(model: Any, name: str) -> str:
    values = [*model.graph.input, *model.graph.output]
    [value] = [value for value in values if value.name == name]
    return TensorProto.DataType.Name(value.type.tensor_type.elem_type)
