"""The fixed-size key/value cache: where it lies, how far it is filled; knows nothing of attention.

There are two layouts, and a decoder group's inputs say which one it was built for:

- in place: engines read (1, kv heads, capacity, head size) and append new rows to it themselves;
- token-major: engines read (1, reach, kv heads, head size) and put new rows out, which are copied behind the old ones.
  A token's row lies where it lies whatever the reach is, so that an engine need not read what is still empty.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from edge_runtime.backends.base import Array, Backend, Engine, Memory, Run
from edge_runtime.bundle.manifest import Manifest, ModelSpec
from edge_runtime.language.positions import ROTARY_INPUTS, position_tables

_REACH_STEP = 256  # reading up to 255 empty rows costs less than binding engines anew for every token


class KVCache(ABC):
    """Keys and values of every layer, filled up to ``length`` of ``capacity`` tokens.

    Forgetting is free: rows past ``length`` are overwritten.
    """

    def __init__(self, backend: Backend, manifest: Manifest, capacity: int) -> None:
        self._backend = backend
        self.capacity = capacity
        self.length = 0
        self._positions = manifest.positions
        self._tables: dict[str, Array] = {  # of positions: row i belongs to row i of the cache
            name: backend.shared((capacity, self._positions.rotary.dim // 2), np.float32) for name in ROTARY_INPUTS
        }
        self._image: tuple[int, tuple[int, int] | None] | None = None  # that the tables are of
        self.place_image(0, None)

    @property
    @abstractmethod
    def reach(self) -> int:
        """How many rows engines read in the step that was announced last."""

    def grow(self, tokens: int) -> None:
        """Announce ``tokens`` rows, which the next step appends.

        Raises:
            IndexError: they do not fit the capacity.
        """
        self.check_room(tokens)
        self._announce(self.length, tokens)
        self.length += tokens

    def check_room(self, tokens: int) -> None:
        """See whether so many tokens fit behind those that are there.

        Raises:
            IndexError: they do not.
        """
        if self.length + tokens > self.capacity:
            raise IndexError(f"{self.length} + {tokens} tokens do not fit a cache of {self.capacity}")

    def truncate(self, length: int) -> None:
        """Forget every token from ``length`` on."""
        if not 0 <= length <= self.length:
            raise IndexError(f"cannot cut a cache of {self.length} tokens to {length}")
        self.length = length

    def clear(self) -> None:
        """Forget every token, and what its rows held: engines may read rows past ``length``, which must be finite."""
        self.length = 0
        for block in self._blocks():
            self._backend.clear(block)

    def place_image(self, at: int, grid: tuple[int, int] | None) -> None:
        """Let the image, whose first row is ``at``, have ``grid`` rows and columns; None: every row only counts."""
        placed = (at, grid) if self._positions.kind == "mrope" else (0, None)
        if self._image == placed:
            return
        for name, values in zip(ROTARY_INPUTS, position_tables(self._positions, self.capacity, at, grid), strict=True):
            self._tables[name][...] = values
        self._image = placed

    @abstractmethod
    def bind(
        self,
        engine: Engine,
        layers: range,
        hidden_states: Memory,
        hidden_states_out: Memory,
        joining: Mapping[str, Memory] = MappingProxyType({}),
    ) -> tuple[Run, Run]:
        """Bind the decoder group of ``layers`` for a step of (1, T, D) at the reach of now.

        ``joining`` are rows (1, T, D), by the group's names for them, that it adds behind layers. The first call runs
        it, the second appends its T rows, which must have happened before another group's step of several tokens is
        run.
        """

    @abstractmethod
    def _blocks(self) -> Iterable[Memory]:
        """All memory of keys and values."""

    @abstractmethod
    def _announce(self, length: int, tokens: int) -> None:
        """Tell the engines that ``tokens`` come after ``length``."""


def open_cache(backend: Backend, manifest: Manifest, capacity: int) -> KVCache:
    """A cache of ``capacity`` tokens in the layout of the manifest's decoder groups; lives as long as ``backend``."""
    is_token_major = any(spec.name == "past_length" for spec in manifest.decoder_groups[0].inputs)
    kind = TokenMajorCache if is_token_major else InPlaceCache
    return kind(backend, manifest, capacity)


class InPlaceCache(KVCache):
    """Engines append rows themselves, led by two lengths."""

    def __init__(self, backend: Backend, manifest: Manifest, capacity: int) -> None:
        super().__init__(backend, manifest, capacity)
        model = manifest.model
        dtype = cache_dtype(manifest)
        shape = (1, model.num_kv_heads, capacity, model.head_dim)
        self._keys = [backend.private(shape, dtype) for _ in range(model.num_layers)]
        self._values = [backend.private(shape, dtype) for _ in range(model.num_layers)]
        # The engines' own two inputs: tokens present after this step, and that minus 1.
        self._total: Array = backend.shared((1,), np.int32)
        self._last: Array = backend.shared((1,), np.int32)

    @property
    def reach(self) -> int:
        """The capacity: engines know how far to read."""
        return self.capacity

    def bind(
        self,
        engine: Engine,
        layers: range,
        hidden_states: Memory,
        hidden_states_out: Memory,
        joining: Mapping[str, Memory] = MappingProxyType({}),
    ) -> tuple[Run, Run]:
        """The present is the same memory as the past, so rows are appended in place."""
        past = {f"past_{name}": memory for name, memory in self._rows(layers)}
        present = {f"present_{name}": memory for name, memory in self._rows(layers)}
        lengths = {"seqlens_k": self._last, "total_sequence_length": self._total}
        inputs = {"hidden_states": hidden_states, **joining, **past, **lengths, **self._tables}
        return engine.bind(inputs, {"hidden_states_out": hidden_states_out, **present}), lambda: None

    def _announce(self, length: int, tokens: int) -> None:
        self._total[0] = length + tokens
        self._last[0] = length + tokens - 1

    def _blocks(self) -> Iterable[Memory]:
        return [*self._keys, *self._values]

    def _rows(self, layers: Iterable[int]) -> list[tuple[str, Memory]]:
        named = [((f"key.{i}", self._keys[i]), (f"value.{i}", self._values[i])) for i in layers]
        return [pair for pairs in named for pair in pairs]


class TokenMajorCache(KVCache):
    """One block of memory a group, (2 * layers, capacity, kv heads, head size): one strided copy appends a step."""

    def __init__(self, backend: Backend, manifest: Manifest, capacity: int) -> None:
        super().__init__(backend, manifest, capacity)
        model, groups = manifest.model, manifest.decoder_groups
        layers = [range(*(group.layers or (0, 0))) for group in groups]
        dtype = cache_dtype(manifest)

        def block(num_layers: int, tokens: int) -> Memory:
            return backend.private((2 * num_layers, tokens, model.num_kv_heads, model.head_dim), dtype)

        self._past_length: Array = backend.shared((1,), np.int32)
        self._past = {group: block(len(group), capacity) for group in layers}
        self._new = block(max(map(len, layers)), min(backend.step_rows, capacity))  # of one group at a time
        self._new_row = {group: block(len(group), 1) for group in layers}  # so that one call can run all groups

    @property
    def reach(self) -> int:
        """The tokens of before, rounded up."""
        steps = max(-(-int(self._past_length[0]) // _REACH_STEP), 1)
        return min(steps * _REACH_STEP, self.capacity)

    def bind(
        self,
        engine: Engine,
        layers: range,
        hidden_states: Memory,
        hidden_states_out: Memory,
        joining: Mapping[str, Memory] = MappingProxyType({}),
    ) -> tuple[Run, Run]:
        """Keys and values lie in turn: (key, value) of the first layer, of the second, ..."""
        past, tokens = self._past[layers], hidden_states.shape[1]
        new = self._new_row[layers] if tokens == 1 else self._new[: 2 * len(layers), :tokens]
        names = [f"{part}.{layer}" for layer in layers for part in ("key", "value")]
        before = {f"past_{name}": past[i : i + 1, : self.reach] for i, name in enumerate(names)}
        after = {f"new_{name}": new[i : i + 1] for i, name in enumerate(names)}
        inputs = {"hidden_states": hidden_states, "past_length": self._past_length, **before, **self._tables}
        run = engine.bind({**inputs, **joining}, {"hidden_states_out": hidden_states_out, **after})
        return run, lambda: self._backend.append_rows(new, past, self.length - tokens)

    def _blocks(self) -> Iterable[Memory]:
        return self._past.values()

    def _announce(self, length: int, tokens: int) -> None:
        self._past_length[0] = length


def cache_dtype(manifest: Manifest) -> str:
    """The type of keys and values."""
    specs = (spec for group in manifest.decoder_groups for spec in group.inputs)
    [dtype] = {spec.dtype for spec in specs if spec.name.startswith("past_key")}
    return dtype


def cache_bytes(model: ModelSpec, capacity: int, number_bytes: int) -> int:
    """What a cache of ``capacity`` tokens takes, at so many bytes a number."""
    return 2 * model.num_layers * model.num_kv_heads * capacity * model.head_dim * number_bytes
