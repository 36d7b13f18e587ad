"""The language model as a sequence that grows: prefill and decode over layer groups; knows no text, loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.base import Engine
from edge_runtime.bundle import ModelSpec
from edge_runtime.embedding import Embedding
from edge_runtime.kv_cache import KVCache

Float32 = NDArray[np.float32]
Run = Callable[[], None]


class Decoder:
    """Prompt, image and answer of one frame at a time.

    The tokens before the image are the same for every frame: they are run once, here, and kept in the cache.
    A step's memory is bound once for every number of tokens that occurs (a handful), then only run. ``image_rows``,
    (1, P, D) f32, is where the connector writes the image of the frame.
    """

    def __init__(
        self,
        model: ModelSpec,
        embedding: Embedding,
        groups: Sequence[tuple[Engine, range]],
        head: Engine,
        prefix: Sequence[int],
        capacity: int,
    ) -> None:
        self._model = model
        self._embedding = embedding
        self._groups = groups
        self._head = head
        self._cache = KVCache(model, capacity)
        self._logits = np.zeros((1, 1, model.vocab_size), np.float32)
        self._steps: dict[int, _Step] = {}
        self._prefix_length = len(prefix)
        self.image_rows = np.zeros((1, model.num_image_tokens, model.hidden_size), np.float32)
        if prefix:
            self._run(embedding.rows(prefix))

    def prefill(self, tokens: Sequence[int]) -> Float32:
        """Forget the last frame; run ``image_rows`` and then ``tokens``. Returns the logits (V,) of what follows."""
        self._cache.truncate(self._prefix_length)
        return self._logits_after(self._run(self.image_rows[0], self._embedding.rows(tokens)))

    def append(self, tokens: Sequence[int]) -> Float32:
        """Run ``tokens`` after everything so far. Returns the logits (V,) of what follows, valid until called again."""
        return self._logits_after(self._run(self._embedding.rows(tokens)))

    def _run(self, *parts: Float32) -> _Step:
        """Run hidden states (T, D), given in parts, through all groups; their keys and values enter the cache."""
        tokens = sum(len(part) for part in parts)
        step = self._steps.get(tokens) or self._bind_step(tokens)
        row = 0
        for part in parts:
            step.hidden_states[0, row : row + len(part)] = part
            row += len(part)
        self._cache.grow(tokens)
        for run in step.run_groups:
            run()
        return step

    def _logits_after(self, step: _Step) -> Float32:
        step.run_head()
        logits: Float32 = self._logits[0, 0]
        return logits

    def _bind_step(self, tokens: int) -> _Step:
        shape = (1, tokens, self._model.hidden_size)
        hidden_states = np.empty(shape, np.float32)
        between = [np.empty(shape, np.float32) for _ in self._groups[1:3]]  # groups write to them in turn
        last_row = np.empty((1, 1, self._model.hidden_size), np.float32)  # what the last group puts out
        runs = []
        source = hidden_states
        for index, (engine, layers) in enumerate(self._groups):
            target = between[index % 2] if index + 1 < len(self._groups) else last_row
            inputs = {"hidden_states": source, **self._cache.inputs(layers)}
            runs.append(engine.bind(inputs, {"hidden_states_out": target, **self._cache.outputs(layers)}))
            source = target
        run_head = self._head.bind({"hidden_states": last_row}, {"logits": self._logits})
        step = self._steps[tokens] = _Step(hidden_states, runs, run_head)
        return step


@dataclass(frozen=True)
class _Step:
    """Memory and bound engines of a step of so many tokens."""

    hidden_states: Float32  # (1, T, D)
    run_groups: list[Run]
    run_head: Run  # for the last token only
