"""Where scales of a matrix' input channels go: into what makes those channels.

A matrix's columns may be multiplied where its inputs are divided alike, which costs nothing if a norm, or the rows of
the matrix before, can take the division. Behind a GELU nothing can; behind a gate it is up_proj that does.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from engines.quantize.methods.fold import Producers


@dataclass(frozen=True)
class Fold:
    """What makes the input channels of a matrix, and so can divide them."""

    matrix: str  # as emitters name it: Q, K and V are one
    vectors: tuple[str, ...]  # tensors with an entry a channel: a norm's weight and bias, the bias of the matrix before
    rows: str | None = None  # the weight of the matrix before
    producers: Producers | None = None  # which row of that makes which channel; None: one each, in order


def folds_under(prefix: str, folds: Iterable[Fold]) -> list[Fold]:
    """The same folds with ``prefix`` before every name."""
    return [
        replace(
            fold,
            matrix=prefix + fold.matrix,
            vectors=tuple(prefix + name for name in fold.vectors),
            rows=None if fold.rows is None else prefix + fold.rows,
        )
        for fold in folds
    ]


def with_known_vectors(folds: Iterable[Fold], known: Container[str]) -> tuple[Fold, ...]:
    """The folds without the biases that a model doesn't have."""
    return tuple(replace(fold, vectors=tuple(name for name in fold.vectors if name in known)) for fold in folds)
