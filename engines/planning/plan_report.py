"""A plan as people read it: what it takes, whether that fits, what else would, and how fast it ought to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from edge_runtime.memory.plan import MemoryPlan, format_bytes
from edge_runtime.vision.image_processors import describe_image
from engines.checkpoint import Checkpoint
from engines.planning.devices import Device
from engines.planning.latency_model import Prediction, predict
from engines.planning.plan import BundlePlan
from engines.planning.suggestions import Change, changes_towards
from engines.quantize.recipe import PrecisionPlan


@dataclass(frozen=True)
class Outlook:
    """A plan against what there is; without a device and a budget, the plan alone."""

    plan: BundlePlan
    memory_plan: MemoryPlan  # with the budget, where there is one
    device: Device | None
    prediction: Prediction | None
    changes: tuple[Change, ...]  # towards fitting; none where it fits

    @property
    def fits(self) -> bool:
        """Whether the plan is within the budget."""
        return self.memory_plan.budget_bytes is None or self.memory_plan.planned_bytes <= self.memory_plan.budget_bytes

    @property
    def verdict(self) -> str:
        """Whether and how well it fits, in words; empty without a budget."""
        if self.memory_plan.budget_bytes is None:
            return ""
        needed, budget = self.memory_plan.planned_bytes, self.memory_plan.budget_bytes
        comparison = f"{format_bytes(abs(budget - needed))} {'less' if self.fits else 'more'} than the budget of"
        return f"the plan needs {format_bytes(needed)}, {comparison} {format_bytes(budget)}"

    def __str__(self) -> str:
        plan = self.plan
        lines = [f"{plan.manifest.name}, {plan.manifest.recipe}, {plan.manifest.target}, {plan.context_tokens} tokens"]
        if plan.model.only_planned:
            lines += [f"it can be planned, and not built: {plan.model.only_planned}"]
        lines += [
            *plan.notes,
            describe_image(plan.model.image),
            "",
            self.memory_plan.table(),
            "",
            f"on disk: {format_bytes(plan.disk_bytes)}",
        ]
        if self.device:
            memory, reserve = format_bytes(self.device.memory_bytes), format_bytes(self.device.reserve_bytes)
            lines += [f"{self.device.name}: {self.device.summary}; {memory}, of which the system keeps {reserve}"]
        lines += [self.verdict] if self.verdict else []
        if self.changes:
            lines += ["", "what else could be asked for:", *(f"  {change}" for change in self.changes)]
        if self.prediction:
            lines += ["", str(self.prediction)]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The same for machines."""
        plan, device, prediction = self.plan, self.device, self.prediction
        return {
            "name": plan.manifest.name,
            "recipe": plan.manifest.recipe,
            "target": plan.manifest.target,
            "context_tokens": plan.context_tokens,
            "only_planned": plan.model.only_planned,
            "notes": list(plan.notes),
            "disk_bytes": plan.disk_bytes,
            "memory_bytes": self.memory_plan.planned_bytes,
            "budget_bytes": self.memory_plan.budget_bytes,
            "fits": self.fits,
            "memory_plan": {item.name: item.planned_bytes for item in self.memory_plan.items},
            "image": describe_image(plan.model.image),
            "device": asdict(device) if device else None,
            "changes": [{**asdict(change), "fits": change.fits} for change in self.changes],
            "prediction": prediction.as_json() if prediction else None,
        }


def outlook(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    plan: BundlePlan,
    device: Device | None = None,
    budget_bytes: int | None = None,
) -> Outlook:
    """Hold ``plan`` against ``device`` and ``budget_bytes``, whichever leaves less.

    How fast it ought to be is said where the plan is for the target whose rates the device's profile has.
    """
    limits = [limit for limit in (budget_bytes, device.budget_bytes if device else None) if limit is not None]
    whole = Outlook(
        plan=plan,
        memory_plan=replace(plan.memory_plan, budget_bytes=min(limits, default=None)),
        device=device,
        prediction=predict(plan, device) if device and device.target == plan.manifest.target else None,
        changes=(),
    )
    if whole.fits or whole.memory_plan.budget_bytes is None:
        return whole
    return replace(whole, changes=changes_towards(whole.memory_plan.budget_bytes, checkpoint, plan, precisions))
