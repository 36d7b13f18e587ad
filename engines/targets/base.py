"""What the builder asks of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle import Component
from engines.families.base import Part
from engines.graphs.weights import TensorSource
from engines.precision import Precision


@dataclass(frozen=True)
class Target:
    """How components are written for one inference engine, and what they take in its memory."""

    write_component: Callable[[Path, Part, TensorSource, Precision], Component]
    resident_bytes: Callable[[Part, Precision], int]  # of one component, loaded
    cache_element_bytes: int  # of one number of the key/value cache
