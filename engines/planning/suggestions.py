"""What would make a plan fit a budget, and by how much: every change that can be asked for, planned anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from edge_runtime.errors import RecipeError
from edge_runtime.memory.plan import format_bytes
from engines.checkpoint import Checkpoint
from engines.planning.devices import known_devices, load_device
from engines.planning.plan import BundlePlan, plan_bundle, shortest_context
from engines.quantize.recipe import PrecisionPlan, known_recipes, load_recipe
from engines.targets import target_kind

_CONTEXT_STEP = 64  # tokens


@dataclass(frozen=True)
class Change:
    """One thing that could be asked for instead."""

    options: str  # of the command
    needed_bytes: int  # by the plan with it
    budget_bytes: int
    caution: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is enough."""
        return self.needed_bytes <= self.budget_bytes

    def __str__(self) -> str:
        spare = format_bytes(abs(self.budget_bytes - self.needed_bytes))
        verdict = f"fits, {spare} to spare" if self.fits else f"still {spare} too much"
        return f"{self.options}: {format_bytes(self.needed_bytes)}, {verdict}{self.caution and f' ({self.caution})'}"


def changes_towards(
    budget_bytes: int, checkpoint: Checkpoint, plan: BundlePlan, precisions: PrecisionPlan
) -> tuple[Change, ...]:
    """What would take less than ``plan``: a smaller context, another recipe, and both; then the device that has room.

    Of contexts the largest that fits is named, or else the smallest that holds prompt, image and a short report.
    """
    target, shortest = plan.manifest.target, min(shortest_context(plan.model), plan.context_tokens)

    def changes(recipe: PrecisionPlan, options: str) -> Iterator[Change]:
        def needed(context: int) -> int:
            other = plan_bundle(checkpoint, recipe, target, context, image=plan.image, schema=plan.model.asked.schema)
            return other.memory_plan.planned_bytes

        whole, caution = needed(plan.context_tokens), _caution(recipe)
        if options and whole >= plan.memory_plan.planned_bytes:
            return
        if options:
            yield Change(options, whole, budget_bytes, caution)
        if whole > budget_bytes and shortest < plan.context_tokens:
            context = _largest_fitting(needed, budget_bytes, shortest, plan.context_tokens)
            yield Change(f"{options} --context {context}".strip(), needed(context), budget_bytes, caution)

    found = list(changes(precisions, ""))
    others = (load_recipe(name) for name in known_recipes() if name != precisions.recipe)
    for recipe in others:
        if not target_kind(target).lacks(recipe):
            with suppress(RecipeError):  # at odds with a checkpoint that is quantized already
                found += changes(recipe, f"--recipe {recipe.recipe}")
    return (*sorted(found, key=lambda change: (not change.fits, change.needed_bytes)), *_larger_devices(plan))


def _largest_fitting(needed: Callable[[int], int], budget_bytes: int, shortest: int, longest: int) -> int:
    """The largest context, in steps, that needs no more than the budget, by halving; ``shortest`` if none does."""
    low, high = 0, (longest - shortest) // _CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        fits = needed(shortest + middle * _CONTEXT_STEP) <= budget_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return shortest + low * _CONTEXT_STEP


def _caution(recipe: PrecisionPlan) -> str:
    is_coarse = recipe.components["vision_encoder"].dtype in ("int4", "nf4")
    return "a 4-bit vision encoder misses what is fine" if is_coarse else ""


def _larger_devices(plan: BundlePlan) -> list[Change]:
    needed_bytes, target = plan.memory_plan.planned_bytes, plan.manifest.target
    devices = [device for device in map(load_device, known_devices()) if device.target == target]
    changes = [Change(f"--device {device.name}", needed_bytes, device.budget_bytes) for device in devices]
    return sorted((change for change in changes if change.fits), key=lambda change: change.budget_bytes)[:1]
