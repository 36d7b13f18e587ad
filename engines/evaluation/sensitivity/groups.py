"""The parts of a model whose precision is tried: component, a few layers next to each other, kind of matrix."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from engines.families.base import Model

# Matrices that are tried together; others by their own name.
_KINDS: Mapping[str, str] = {
    "q_proj": "qk",
    "k_proj": "qk",
    "v_proj": "v",
    "o_proj": "o",
    "out_proj": "o",
    "fc1": "ffn",
    "fc2": "ffn",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "down_proj": "down",
    "patch_embedding": "patch",
}
_NAMELESS = ("connector", "embedding", "lm_head")  # components that are one group each


@dataclass(frozen=True)
class WeightGroup:
    """Matrices that get their precision together; ``decoder.0-3.down`` are those of four layers."""

    name: str
    component: str
    tensors: Mapping[str, tuple[int, ...]]  # shapes, by the name in the checkpoint

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return sum(math.prod(shape) for shape in self.tensors.values())


def weight_groups(model: Model, block_groups: int) -> tuple[WeightGroup, ...]:
    """All matrices of ``model`` as groups, the layers of each component in ``block_groups`` of about equal size."""
    found: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    layers = {kind: _num_layers(model, kind) for kind in ("vision_encoder", "decoder")}
    for part in model.parts:
        for name, parameter in part.parameters.items():
            if parameter.is_matrix:
                where = _where(name, part.role, layers.get(part.role, 0), block_groups)
                found.setdefault((part.role, where), {})[name] = parameter.shape
    return tuple(
        WeightGroup(f"{kind}.{where}" if where else kind, kind, tensors) for (kind, where), tensors in found.items()
    )


def _where(name: str, kind: str, num_layers: int, block_groups: int) -> str:
    if kind in _NAMELESS:
        return ""
    matrix = name.removesuffix(".weight").rpartition(".")[2]
    label = _KINDS.get(matrix, matrix)
    layer = _layer(name)
    if layer is None:
        return label
    size = -(-num_layers // block_groups)
    first = layer // size * size
    last = min(first + size, num_layers) - 1
    return f"{first}-{last}.{label}" if last > first else f"{first}.{label}"


def _num_layers(model: Model, kind: str) -> int:
    names = (name for part in model.parts if part.role == kind for name in part.parameters)
    return 1 + max((layer for name in names if (layer := _layer(name)) is not None), default=-1)


def _layer(name: str) -> int | None:
    match = re.search(r"\.layers\.(\d+)\.", name)
    return int(match[1]) if match else None
