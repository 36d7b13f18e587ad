"""The language model as a sequence that grows: prefill and decode over layer groups; knows no text, loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_runtime import progress
from edge_runtime.backends.base import Array, Backend, Engine, Memory, Run
from edge_runtime.bundle.manifest import DEEPSTACK, Manifest
from edge_runtime.language.embedding import Embedding
from edge_runtime.language.kv_cache import open_cache

Float32 = NDArray[np.float32]


class Decoder:
    """Prompt, image and answer of one frame at a time.

    The tokens before the image are the same for every frame: they are run once, here, and kept in the cache.
    A step's memory is bound once for every number of tokens that occurs (a handful), then only run.
    ``image_rows(P)``, (1, P, D), is where an image of P tokens is written: rows of the prompt's own memory, so that
    what an engine writes there is never copied; ``embedding`` has those of text. ``groups`` and ``heads`` are loaded in
    the manifest's order.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        embedding: Embedding,
        groups: Sequence[Engine],
        heads: Sequence[Engine],
        prefix: Sequence[int],
        capacity: int,
    ) -> None:
        self._backend = backend
        self.embedding = embedding
        layers = [range(*(group.layers or (0, 0))) for group in manifest.decoder_groups]
        self._groups = list(zip(groups, layers, strict=True))
        head_widths = [int(head.outputs[0].shape[-1]) for head in manifest.lm_heads]
        self._heads = list(zip(heads, head_widths, strict=True))
        self._cache = open_cache(backend, manifest, capacity)

        width, dtype = manifest.model.hidden_size, manifest.decoder_groups[0].inputs[0].dtype
        step = (1, min(backend.step_rows, capacity), width)
        self._rows: Array = backend.shared((1, capacity, width), dtype)  # the image's, then those of what is run
        # What joins the hidden states of those rows behind a layer: the image's, and zeros for text.
        self._joining: dict[str, Array] = {name: backend.shared(self._rows.shape, dtype) for name in manifest.deepstack}
        self._between = [backend.private(step, dtype) for _ in groups[1:3]]  # groups write to them in turn
        self._last_row = backend.private((1, 1, width), dtype)  # what the last group puts out
        self._logits: Array = backend.shared((1, 1, sum(head_widths)), np.float32)
        self._steps: dict[tuple[int, int, int], _Step] = {}

        self._behind_image = manifest.image.max_tokens  # where the tokens behind the image lie among the rows
        self._image_tokens = 0  # of the image that the cache holds
        self._image_grid: tuple[int, int] | None = None
        self._prefix = tuple(prefix)
        self._is_spoiled = False  # what a frame left in the cache is no numbers
        self.holds_image = False  # behind the prefix, what the image's rows were at the last prefill
        self._run_prefix()

    def image_rows(self, tokens: int) -> Array:
        """Where an image of so many tokens is written before it is prefilled: (1, tokens, D)."""
        return self._rows[:, self._behind_image - tokens : self._behind_image]

    def joining_rows(self, tokens: int) -> dict[str, Array]:
        """Where more of an image of so many tokens is written, by the vision encoder's names for it: (1, tokens, D)."""
        return {name: rows[:, self._behind_image - tokens : self._behind_image] for name, rows in self._joining.items()}

    def place_image(self, grid: tuple[int, int] | None) -> None:
        """Say in how many rows and columns the next image's tokens lie."""
        self._image_grid = grid

    def prefill(self, tokens: Sequence[int], image_tokens: int, same_image: bool = False) -> Float32:
        """Forget the last frame; run the image's rows and then ``tokens``. Returns the logits (V,) of what follows.

        Where ``same_image`` says that the image's rows are those of before, their keys and values are kept.
        """
        if same_image and self.holds_image and not self._is_spoiled and image_tokens == self._image_tokens:
            self._cache.truncate(len(self._prefix) + image_tokens)
            return self._run(tokens)
        progress.begin("reading the prompt", image_tokens + len(tokens))
        self.forget()
        self._cache.place_image(len(self._prefix), self._image_grid)
        logits = self._run(tokens, image_tokens)
        self.holds_image, self._image_tokens = True, image_tokens
        return logits

    def append(self, tokens: Sequence[int]) -> Float32:
        """Run ``tokens`` after everything so far. Returns the logits (V,) of what follows, valid until called again."""
        return self._run(tokens)

    def rewind(self, tokens: int) -> None:
        """Forget the last ``tokens`` that were appended."""
        self._cache.truncate(self._cache.length - tokens)

    def begin_with(self, prefix: Sequence[int]) -> None:
        """Let other tokens stand before the image from now on; the image is forgotten where they differ."""
        if tuple(prefix) != self._prefix:
            self.holds_image, self._prefix = False, tuple(prefix)
            self._cache.truncate(0)
            self._cache.place_image(0, None)  # the last one's rows may be among those of the prefix now
            self._run_prefix()

    def forget(self) -> None:
        """Keep the tokens before the image, and nothing else."""
        self.holds_image = False
        if self._is_spoiled:
            self._cache.clear()
            self._run_prefix()
        self._cache.truncate(len(self._prefix))

    def _run_prefix(self) -> None:
        if self._prefix:
            self._run(self._prefix)

    def _run(self, tokens: Sequence[int], image_rows: int = 0) -> Float32:
        """Run ``tokens``, or the ``image_rows`` and ``tokens``, in equal steps, each through all groups.

        The cache takes keys and values of all of them. Returns the logits (V,) of what follows.
        """
        behind_image = self._behind_image
        length, begin = image_rows + len(tokens), behind_image - image_rows
        self._cache.check_room(length)
        self._rows[0, behind_image : begin + length] = self.embedding.rows(tokens)
        count = -(-length // self._backend.step_rows)
        edges = [begin + length * i // count for i in range(count + 1)]
        for first, end in pairwise(edges):
            self._backend.synchronize()  # the last step reads the cache's length, which changes now
            self._cache.grow(end - first)
            kind = (first, end, self._cache.reach)
            step = self._steps.get(kind) or self._bind_step(kind)
            for run in step.run_groups:
                run()
                progress.advance((end - first) / len(step.run_groups))
        for run in step.run_heads:
            run()
        self._backend.synchronize()
        logits: Float32 = self._logits[0, 0]
        self._is_spoiled = not np.isfinite(logits.max())  # a row that is no number makes all behind it so
        return logits

    def _bind_step(self, kind: tuple[int, int, int]) -> _Step:
        first_row, end_row, _ = kind
        length = end_row - first_row
        groups: list[tuple[Run, Run]] = []
        source: Memory = self._rows[:, first_row:end_row]
        for index, (engine, layers) in enumerate(self._groups):
            is_last = index + 1 == len(self._groups)
            target = self._last_row if is_last else self._between[index % 2][:, :length]
            names = [f"{DEEPSTACK}{layer}" for layer in layers]
            joining = {name: self._joining[name][:, first_row:end_row] for name in names if name in self._joining}
            groups.append(self._cache.bind(engine, layers, source, target, joining))
            source = target
        heads: list[Run] = []
        first = 0
        for engine, width in self._heads:
            part = self._logits[:, :, first : first + width]
            heads.append(engine.bind({"hidden_states": self._last_row}, {"logits": part}))
            first += width
        if length == 1:  # most steps of an answer: one call for all engines, and then the rows that they gave
            engines = self._backend.record([*(run for run, _ in groups), *heads])
            step = _Step([engines, *(append for _, append in groups)], [])
        else:
            step = _Step([run for pair in groups for run in pair], heads)
        self._steps[kind] = step
        return step


@dataclass(frozen=True)
class _Step:
    """Engines bound to the memory of a step of so many tokens."""

    run_groups: list[Run]  # with the heads, where the step is recorded
    run_heads: list[Run]  # for the last token only; each writes its part of the vocabulary
