"""The parts of a model whose precision is tried: component, a few layers next to each other, kind of matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engines.families.base import Model
from engines.layers.parameters import Parameter

_NAMELESS = ("connector", "embedding", "lm_head")  # components that are one group each


@dataclass(frozen=True)
class WeightGroup:
    """Matrices that get their precision together; ``decoder.0-3.down`` are those of four layers."""

    name: str
    component: str
    tensors: Mapping[str, Parameter]  # by the name in the checkpoint

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return sum(math.prod(parameter.shape) for parameter in self.tensors.values())


def weight_groups(model: Model, block_groups: int) -> tuple[WeightGroup, ...]:
    """All matrices of ``model`` as groups, the layers of each component in ``block_groups`` of about equal size."""
    found: dict[tuple[str, str], dict[str, Parameter]] = {}
    layers = {kind: _num_layers(model, kind) for kind in ("vision_encoder", "decoder")}
    for part in model.parts:
        for name, parameter in part.parameters.items():
            if parameter.is_matrix:
                where = _where(parameter, part.role, layers.get(part.role, 0), block_groups)
                found.setdefault((part.role, where), {})[name] = parameter
    return tuple(
        WeightGroup(f"{role}.{where}" if where else role, role, tensors) for (role, where), tensors in found.items()
    )


def _where(parameter: Parameter, role: str, num_layers: int, block_groups: int) -> str:
    if role in _NAMELESS:
        return ""
    if parameter.layer is None:
        return parameter.kind
    size = -(-num_layers // block_groups)
    first = parameter.layer // size * size
    last = min(first + size, num_layers) - 1
    return f"{first}-{last}.{parameter.kind}" if last > first else f"{first}.{parameter.kind}"


def _num_layers(model: Model, role: str) -> int:
    parameters = (p for part in model.parts if part.role == role for p in part.parameters.values())
    return 1 + max((p.layer for p in parameters if p.layer is not None), default=-1)
