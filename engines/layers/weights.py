"""A component's tensors as its emitter asks for them: by name, at the planned precision, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.quantize import CALIBRATED, QUANTIZERS
from engines.quantize.formats.int4 import Int4Matrix, block_size_for, stacked
from engines.quantize.formats.int8 import Int8Matrix, quantize_int8
from engines.quantize.formats.nf4 import Nf4Matrix, quantize_nf4
from engines.quantize.recipe import Precision
from engines.quantized_checkpoint import QuantizedMatrix

Matrix = NDArray[np.float16] | Int4Matrix | Int8Matrix | Nf4Matrix


class TensorSource(Protocol):
    """Where tensors come from: a checkpoint."""

    def tensor(self, name: str) -> NDArray[Any]:
        """The values of one tensor."""

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor."""


@runtime_checkable
class CalibratedSource(TensorSource, Protocol):
    """A source that knows what its matrices receive."""

    def rounded(self, name: str, weight: NDArray[np.float16], precision: Precision) -> Int4Matrix:
        """A matrix by a method that asks for that."""


@runtime_checkable
class QuantizedSource(TensorSource, Protocol):
    """A source that has matrices in 4 bits."""

    def int4(self, name: str) -> QuantizedMatrix:
        """One of them, by its tensor's name."""


@dataclass(frozen=True)
class Linear:
    """``y = (x * input_scales) @ weight.T + bias``; the weight is (N, K), float16 or quantized."""

    name: str
    weight: Matrix
    bias: NDArray[np.float16] | None
    input_scales: NDArray[np.float32] | None = None  # (K,), of a checkpoint that is quantized already

    @property
    def width(self) -> int:
        """N."""
        return self.weight.shape[0] if isinstance(self.weight, np.ndarray) else self.weight.rows


@dataclass(frozen=True)
class Weights:
    """The tensors below ``prefix`` of a checkpoint, their matrices at ``precision``."""

    source: TensorSource
    precision: Precision
    prefix: str = ""

    def under(self, prefix: str) -> Weights:
        """The tensors whose names go on with ``prefix``."""
        return replace(self, prefix=self.prefix + prefix)

    def has_twin_ranges(self, name: str) -> bool:
        """Whether INT8 is to round the inputs of a matrix by two scales, where they lie on two sides of zero."""
        return self.precision.of(self.prefix + name).has_twin_ranges

    def of_products(self, name: str) -> Precision:
        """How what attention multiplies between its matrices is rounded."""
        return self.precision.of_products(self.prefix + name)

    def vector(self, name: str) -> NDArray[np.float16]:
        """A tensor that is never quantized (a norm, a bias, positions), as float16 in its own shape.

        Raises:
            CheckpointError: it is missing, or holds a value that float16 cannot.
        """
        return self._float16(self.prefix + name)

    def linear(self, name: str, *parts: str) -> Linear:
        """The matrices ``parts`` (or ``name`` itself) stacked along N to one, with their biases where they have them.

        A convolution whose kernel is its stride counts as the matrix (N, K) that it is.

        Raises:
            CheckpointError: a tensor is missing, or holds a value that the precision cannot.
        """
        paths = [self.prefix + part for part in parts or (name,)]
        biases = [self._float16(f"{path}.bias") for path in paths if f"{path}.bias" in self.source]
        if biases and len(biases) < len(paths):
            raise CheckpointError(f"only some of {', '.join(paths)} have a bias; expected all or none")
        path, bias = self.prefix + name, np.concatenate(biases) if biases else None
        if self.precision.of(path).is_stored:
            found = self._stored(paths)
            return Linear(path, found.matrix, bias, found.input_scales)
        matrices = [self._float16(f"{part}.weight") for part in paths]
        weight = np.concatenate([matrix.reshape(matrix.shape[0], -1) for matrix in matrices])
        return Linear(path, self._quantized(path, weight), bias)

    def rows(self, name: str) -> NDArray[np.float16] | Int4Matrix:
        """The matrix of an embedding, one row a token."""
        if self.precision.of(self.prefix + name).is_stored:
            return self._stored([self.prefix + name]).matrix
        weight = self._float16(f"{self.prefix}{name}.weight")
        return weight if self.precision.block_size is None else _rounded(weight, self.precision)

    def _stored(self, paths: Sequence[str]) -> QuantizedMatrix:
        """Matrices that are codes in the checkpoint, stacked along N."""
        assert isinstance(self.source, QuantizedSource), "plans say so of no other"
        found = [self.source.int4(f"{path}.weight") for path in paths]
        scales = [np.ones(1, np.float32) if each.input_scales is None else each.input_scales for each in found]
        if not all(np.array_equal(scales[0], other) for other in scales):
            raise CheckpointError(
                f"{', '.join(paths)} multiply the same inputs by different scales, and engines stack them to one "
                "matrix; export the checkpoint with its layers fused, or take the model that it was quantized from"
            )
        return QuantizedMatrix(stacked([each.matrix for each in found]), found[0].input_scales)

    def _quantized(self, path: str, weight: NDArray[np.float16]) -> Matrix:
        precision = self.precision.of(path)
        if precision.method in CALIBRATED:
            assert isinstance(self.source, CalibratedSource), "the builder opens one for a plan that is calibrated"
            return self.source.rounded(path, weight, precision)
        return _FORMATS[precision.dtype](weight, precision)

    def _float16(self, name: str) -> NDArray[np.float16]:
        tensor = self.source.tensor(name)
        with np.errstate(over="ignore"):
            values = np.asarray(tensor, np.float16)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{name} holds NaN, infinity or a value beyond float16's 65504; expected finite weights: "
                "check that the checkpoint was saved and copied whole"
            )
        return values


def _rounded(weight: NDArray[np.float16], precision: Precision) -> Int4Matrix:
    assert precision.block_size is not None
    return QUANTIZERS[precision.method](weight, block_size_for(weight.shape[1], precision.block_size))


_FORMATS: Mapping[str, Callable[[NDArray[np.float16], Precision], Matrix]] = {
    "float16": lambda weight, _: weight,
    "int8": lambda weight, _: quantize_int8(weight),
    "int4": _rounded,
    "nf4": lambda weight, _: quantize_nf4(weight),
}
