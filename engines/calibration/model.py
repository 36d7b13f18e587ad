"""A checkpoint's components on calibration images: the runner that its own prompt, words and answers make."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_runtime.language.tokenizer import prompt_tokens
from engines.calibration.activation_runner import ActivationRunner, open_runner
from engines.calibration.images import CalibrationImages
from engines.calibration.overflow import Overflow, find_overflow
from engines.checkpoint import Checkpoint
from engines.families.base import Model
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.onnx.builder import Graph
from engines.quantize.recipe import Precision
from engines.reference.answers import ANSWER_TOKENS, answer_tokens


@contextmanager
def open_model_runner(
    checkpoint: Checkpoint, model: Model, images: CalibrationImages, directory: Path | None = None
) -> Iterator[ActivationRunner]:
    """A runner with the model's own prompt and embedding, and with beginnings of answers as it would write them.

    Raises:
        CheckpointError: the embedding cannot be read.
        BundleCorruptError: the prompt does not hold the image token exactly once.
    """
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json.decode("utf-8"))
    prompt = prompt_tokens(tokenizer, model.prompt, model.spec.image_token_id)
    length = len(prompt.before_image) + model.image.max_tokens + len(prompt.after_image)
    longest = min(ANSWER_TOKENS, model.spec.max_positions - length)
    steps = model.coordinates.steps
    answers = answer_tokens(tokenizer, tokens=longest, schema=model.asked.schema, coordinate_steps=steps)
    [table] = [name for part in model.parts if part.role == "embedding" for name in part.parameters]
    embedding = _CheckpointEmbedding(checkpoint, table)
    with open_runner(images, model.image, model.positions, prompt, embedding, answers, directory) as runner:
        yield runner


def find_model_overflow(checkpoint: Checkpoint, model: Model, images: CalibrationImages) -> Mapping[str, Overflow]:
    """What would overflow in a float16 engine of each component, by the component's name.

    Raises:
        CalibrationError: what overflows passes between components; no engine that computes in float16 can do that.
        CheckpointError: a tensor cannot be read.
        SourceError: there is no image.
    """
    found = {}
    with open_model_runner(checkpoint, model, images) as runner:
        for part in model.parts:
            if part.emit is not None:
                with tempfile.TemporaryDirectory(prefix="float16-") as folder:
                    path = Path(folder) / f"{part.name}.onnx"
                    with Graph(path) as graph:
                        part.emit(graph, TensorRTLowering(), checkpoint, Precision("float16", "cast", None))
                        graph.save()
                    found[part.name] = find_overflow(runner, path)
    return found


@dataclass(frozen=True)
class _CheckpointEmbedding:
    """The checkpoint's own rows: a recipe may store them at fewer bits, which moves no range."""

    checkpoint: Checkpoint
    name: str

    def rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self.checkpoint.tensor(self.name)[list(ids)].astype(np.float32)
