"""What a bundle will weigh, on disk and in memory, before anything is written; reads settings and shapes only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.budget import Ledger, plan_ledger
from edge_runtime.bundle import SCHEMA_VERSION, Component, FileEntry, Hashes, Manifest
from edge_runtime.errors import RecipeError
from engines.checkpoint import Checkpoint
from engines.families import DEFAULT_GROUP_PARAMETERS, read_model
from engines.families.base import Part
from engines.precision import PrecisionPlan
from engines.targets import TARGETS

_CONTEXT = 2048  # tokens of prompt, image and answer together, where nothing else is asked for


@dataclass(frozen=True)
class BundlePlan:
    """A bundle that isn't there yet."""

    parts: tuple[Part, ...]
    manifest: Manifest  # with the sizes that files will have, and no hashes
    ledger: Ledger  # what the runtime will hold

    @property
    def disk_bytes(self) -> int:
        """Size of the bundle, within a few per cent."""
        return self.manifest.size_bytes


def plan_bundle(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    target: str,
    context: int | None = None,
    group_parameters: int = DEFAULT_GROUP_PARAMETERS,
) -> BundlePlan:
    """Plan every component at its precision, and the memory that a cache of ``context`` tokens takes with them.

    Raises:
        RecipeError: there is no such target.
        CheckpointError: the checkpoint is not supported, or contradicts itself.
    """
    if target not in TARGETS:
        raise RecipeError(f"there is no target {target!r}; there are {', '.join(TARGETS)}")
    model = read_model(checkpoint, group_parameters)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=checkpoint.name,
        family=model.family,
        target=target,
        recipe=precisions.recipe,
        model=model.spec,
        preprocessing=model.preprocessing,
        prompt=model.prompt,
        components=tuple(_planned_component(part, precisions) for part in model.parts),
        tokenizer=FileEntry("tokenizer.json", "", len(checkpoint.tokenizer_json)),
        ledger={},
        build={},
        hashes=Hashes(checkpoint=None, recipe=precisions.sha256, calibration=None),
        fidelity=None,
    )
    return BundlePlan(model.parts, manifest, plan_ledger(manifest, min(context or _CONTEXT, model.spec.max_positions)))


def _planned_component(part: Part, precisions: PrecisionPlan) -> Component:
    precision = precisions.components[part.kind]
    size_bytes = sum(
        precision.matrix_bytes(p.shape[0], math.prod(p.shape[1:])) if p.is_matrix else 2 * math.prod(p.shape)
        for p in part.parameters.values()
    )
    return Component(
        name=part.name,
        kind=part.kind,
        layers=part.layers,
        precision=precision.dtype,
        block_size=precision.block_size,
        method=precision.method,
        files=(FileEntry(part.name, "", size_bytes),),
        inputs=(),
        outputs=(),
    )
