"""What a bundle will weigh before anything is written: bytes on disk, and the ledger of bytes in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.budget import Ledger, LedgerItem
from edge_runtime.bundle import COMPONENT_KINDS
from engines.families.base import Model, Part
from engines.precision import Precision, PrecisionPlan
from engines.targets import TARGETS

DEFAULT_CONTEXT = 2048  # tokens of prompt, image and answer together


@dataclass(frozen=True)
class BundlePlan:
    """Where the bytes will go."""

    disk_bytes: int  # of the whole bundle, within a few per cent
    ledger: Ledger  # in memory, onboard


def plan_bundle(model: Model, precisions: PrecisionPlan, target: str, context: int = DEFAULT_CONTEXT) -> BundlePlan:
    """Add up the components, the key/value cache of ``context`` tokens, and the peak while one part is loaded."""
    memory = dict.fromkeys(COMPONENT_KINDS, 0)
    disk_bytes, load_peak_bytes = 0, 0
    for part in model.parts:
        precision = precisions.components[part.kind]
        stored = stored_bytes(part, precision)
        disk_bytes += stored
        memory[part.kind] += TARGETS[target].resident_bytes(part, precision)
        load_peak_bytes = max(load_peak_bytes, stored if part.emit else 0)
    spec = model.spec
    positions = min(context, spec.max_positions)
    memory["kv_cache"] = (
        TARGETS[target].cache_element_bytes * 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * positions
    )
    memory["load_peak"] = load_peak_bytes
    return BundlePlan(disk_bytes, Ledger(tuple(LedgerItem(name, size) for name, size in memory.items())))


def stored_bytes(part: Part, precision: Precision) -> int:
    """Bytes of a component's weights as they are written."""
    return sum(
        precision.matrix_bytes(p.shape[0], math.prod(p.shape[1:])) if p.is_matrix else 2 * math.prod(p.shape)
        for p in part.parameters.values()
    )
