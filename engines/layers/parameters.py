"""Tensors of a checkpoint as layers declare them: shape, the engine's matrix that holds it, what is tried together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Parameter:
    """One tensor; matrices are stored at the planned precision, everything else in float16."""

    shape: tuple[int, ...]
    matrix: str = ""  # as recipes and graphs call the engine's matrix that holds it; empty where it is none
    kind: str = ""  # matrices of one kind have their precision tried together
    layer: int | None = None  # number of the layer it belongs to

    @property
    def is_matrix(self) -> bool:
        """Whether it is part of a matrix."""
        return bool(self.matrix)


def under(prefix: str, parameters: Mapping[str, Parameter], layer: int | None = None) -> dict[str, Parameter]:
    """The same parameters with ``prefix`` before their names; of the layer with that number, where one is given."""
    return {
        prefix + name: replace(
            p, matrix=prefix + p.matrix if p.matrix else "", layer=p.layer if layer is None else layer
        )
        for name, p in parameters.items()
    }
