"""What components are fed with while they are calibrated: rows in a file, and the empty state of a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto, helper

from edge_runtime.errors import CalibrationError
from edge_runtime.language.positions import ROTARY_INPUTS
from edge_runtime.vision.image_encoder import PATCH_ROWS

Array = NDArray[Any]
Float32 = NDArray[np.float32]


def shape_at(value: ValueInfoProto, tokens: int) -> tuple[int, ...]:
    """The shape of a component's input or output where all sizes that are free are ``tokens``."""
    return tuple(size.dim_value or tokens for size in value.type.tensor_type.shape.dim)


class Rows:
    """Float32 arrays of one shape, one an image, in a file; read back one at a time."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name  # of the input that reads them
        self._path = path
        self._shape: tuple[int, ...] = ()
        self._count = 0
        path.write_bytes(b"")

    def append(self, rows: Array) -> None:
        """Write one image's array behind the others.

        Raises:
            CalibrationError: there is no room for it.
        """
        self._shape = rows.shape
        try:
            with self._path.open("ab") as stream:
                stream.write(np.ascontiguousarray(rows, np.float32).data)
        except OSError as error:
            raise CalibrationError(
                f"no room for what passes between components in {self._path.parent}: {error}; make room there, set "
                "TMPDIR to another place, or calibrate on fewer images"
            ) from error
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Float32]:
        for index in range(self._count):
            size = int(np.prod(self._shape))
            values = np.fromfile(self._path, np.float32, size, offset=index * size * 4)
            yield values.reshape(self._shape)

    def delete(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Samples:
    """Inputs of one component, a mapping from name to array for every image; can be iterated any number of times.

    ``inputs`` are those of the graph that computes in float32, as TensorRT's calibrators want them. A decoder's cache
    is empty, with room for the step's own tokens where the component appends to it in place.
    """

    rows: Rows
    inputs: Sequence[ValueInfoProto]
    tables: Mapping[str, Float32]  # of positions, with a row for each that a sequence may have
    first_patch: int = 0  # of the picture's grid, among those of all grids that the vision encoder is built for
    joining: Mapping[str, Rows] = field(default_factory=dict)  # what joins the rows behind layers, by the input's name

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        named = [name for name in self.joining if any(value.name == name for value in self.inputs)]
        for rows, *joining in zip(self.rows, *(self.joining[name] for name in named), strict=True):
            yield self._fill(rows, dict(zip(named, joining, strict=True)))

    def _fill(self, rows: Float32, joining: Mapping[str, Float32]) -> dict[str, Array]:
        tokens = rows.shape[1]
        counters = {"past_length": 0, "seqlens_k": tokens - 1, "total_sequence_length": tokens}
        arrays = {}
        for value in self.inputs:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            if value.name == self.rows.name:
                arrays[value.name] = rows.astype(dtype)
            elif value.name in counters:
                arrays[value.name] = np.array([counters[value.name]], dtype)
            elif value.name in ROTARY_INPUTS:
                arrays[value.name] = self.tables[value.name][:tokens].astype(dtype)
            elif value.name in joining:
                arrays[value.name] = joining[value.name].astype(dtype)
            elif value.name == PATCH_ROWS:
                arrays[value.name] = np.arange(self.first_patch, self.first_patch + tokens, dtype=dtype)
            else:
                arrays[value.name] = np.zeros(shape_at(value, tokens), dtype)
        return arrays
