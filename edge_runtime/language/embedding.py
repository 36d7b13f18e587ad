"""Token ids to embedding rows, read from memory-mapped files; no graph, as a lookup needs none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.opening import Bundle
from edge_runtime.errors import BundleCorruptError

Float32 = NDArray[np.float32]

_INT4_ZERO_POINT = 8


class Embedding(Protocol):
    """A table of V rows of D numbers."""

    def rows(self, ids: Sequence[int]) -> Float32:
        """The rows of ``ids``: f32 (len(ids), D)."""


def open_embedding(bundle: Bundle) -> Embedding:
    """The bundle's embedding at its precision; only rows that are asked for become resident.

    Raises:
        BundleCorruptError: the files do not hold a table of the model's size.
    """
    model = bundle.manifest.model
    component = bundle.manifest.component("embedding")
    paths = [bundle.file(entry) for entry in component.files]
    size = (model.vocab_size, model.hidden_size)
    if component.precision == "float16" and len(paths) == 1:
        return _Float16Embedding(_map(paths[0], np.float16, size))
    block = component.block_size
    if component.precision == "int4" and len(paths) == 2 and block and size[1] % max(block, 2) == 0:
        packed, scales = sorted(paths, key=lambda path: path.suffix)  # .q4, .scales
        return _Int4Embedding(
            _map(packed, np.uint8, (size[0], size[1] // 2)), _map(scales, np.float16, (size[0], size[1] // block))
        )
    raise BundleCorruptError(
        f"the embedding is {component.precision} in {len(paths)} files with block size {block}, expected float16 in "
        "one file or int4 in two; rebuild the bundle"
    )


class _Float16Embedding:
    def __init__(self, table: NDArray[Any]) -> None:
        self._table = table  # (V, D)

    def rows(self, ids: Sequence[int]) -> Float32:
        return self._table[list(ids)].astype(np.float32)


class _Int4Embedding:
    def __init__(self, packed: NDArray[Any], scales: NDArray[Any]) -> None:
        self._packed = packed  # (V, D / 2), low nibble first
        self._scales = scales  # (V, D / block)

    def rows(self, ids: Sequence[int]) -> Float32:
        packed = self._packed[list(ids)]
        scales = self._scales[list(ids)].astype(np.float32)
        numbers = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.float32) - _INT4_ZERO_POINT  # (T, D / 2, 2)
        blocks = numbers.reshape(*scales.shape, -1) * scales[..., None]  # (T, D / block, block)
        return blocks.reshape(len(ids), -1)


def _map(path: Path, dtype: type[Any], shape: tuple[int, int]) -> NDArray[Any]:
    try:
        return np.memmap(path, dtype, mode="r", shape=shape)
    except (OSError, ValueError) as error:
        raise BundleCorruptError(f"{path} does not hold {shape} numbers ({error}); rebuild the bundle") from error
