"""The fixed-size key/value cache: where it lies, how far it is filled; knows nothing of attention."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_runtime.backends.base import Array
from edge_runtime.bundle import ModelSpec


class KVCache:
    """Keys and values of every layer, (1, kv heads, capacity, head size) f32 each, filled up to ``length`` tokens.

    Engines append rows in place, so forgetting is free: rows past ``length`` are overwritten.
    """

    def __init__(self, model: ModelSpec, capacity: int) -> None:
        shape = (1, model.num_kv_heads, capacity, model.head_dim)
        self.capacity = capacity
        # Written, not np.zeros: that would only reserve the pages, and a drone must not run out of memory in the air.
        self._keys = [np.full(shape, 0, np.float32) for _ in range(model.num_layers)]
        self._values = [np.full(shape, 0, np.float32) for _ in range(model.num_layers)]
        # The engines' own two inputs: tokens present after this step, and that minus 1.
        self._total = np.zeros(1, np.int32)
        self._last = np.zeros(1, np.int32)

    @property
    def length(self) -> int:
        """Tokens present."""
        return int(self._total[0])

    def grow(self, tokens: int) -> None:
        """Announce ``tokens`` rows, which the engines append next.

        Raises:
            IndexError: they do not fit the capacity.
        """
        if self.length + tokens > self.capacity:
            raise IndexError(f"{self.length} + {tokens} tokens do not fit a cache of {self.capacity}")
        self._set_length(self.length + tokens)

    def truncate(self, length: int) -> None:
        """Forget every token from ``length`` on."""
        if not 0 <= length <= self.length:
            raise IndexError(f"cannot cut a cache of {self.length} tokens to {length}")
        self._set_length(length)

    def inputs(self, layers: Iterable[int]) -> dict[str, Array]:
        """Arrays to bind as a decoder group's inputs, by name."""
        past = {f"past_{name}": array for name, array in self._rows(layers)}
        return {**past, "seqlens_k": self._last, "total_sequence_length": self._total}

    def outputs(self, layers: Iterable[int]) -> dict[str, Array]:
        """Arrays to bind as its outputs: the same memory as the past, so rows are appended in place."""
        return {f"present_{name}": array for name, array in self._rows(layers)}

    def _rows(self, layers: Iterable[int]) -> list[tuple[str, Array]]:
        named = [((f"key.{i}", self._keys[i]), (f"value.{i}", self._values[i])) for i in layers]
        return [pair for pairs in named for pair in pairs]

    def _set_length(self, length: int) -> None:
        self._total[0] = length
        self._last[0] = length - 1


def cache_bytes(model: ModelSpec, capacity: int) -> int:
    """What a cache of ``capacity`` tokens takes."""
    return 2 * model.num_layers * model.num_kv_heads * capacity * model.head_dim * 4
