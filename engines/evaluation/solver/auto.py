"""The recipe ``auto``: measurements of a checkpoint and a budget in, a plan and what it is expected to cost out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import RecipeError
from edge_runtime.memory.plan import format_bytes
from engines.checkpoint import Checkpoint
from engines.evaluation.sensitivity.grid import Experiment
from engines.evaluation.sensitivity.groups import weight_groups
from engines.evaluation.sensitivity.journal import Journal, load_journal
from engines.evaluation.solver.choices import choices_of
from engines.evaluation.solver.solve import Solution, solve
from engines.families import read_model
from engines.families.base import AS_SUGGESTED, ImageOptions
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe

_SMALL_LOSS = 0.05  # nats an unforced token: up to here reports hardly change, and how they do is noise


@dataclass(frozen=True)
class Forecast:
    """What a plan is expected to do on the scenes that were measured."""

    macro_f1: float
    answer_loss: float  # nats an unforced token that the true answer costs
    logits_divergence: float  # nats an unforced token


@dataclass(frozen=True)
class AutoPlan:
    """The plan chosen, and the next best."""

    solutions: tuple[Solution, ...]
    forecasts: tuple[Forecast, ...]  # of the solutions
    untouched: Forecast  # of float16

    @property
    def best(self) -> Solution:
        """The one to build."""
        return self.solutions[0]

    def table(self) -> str:
        """What each would take and cost, as Markdown."""
        lines = ["| plan | memory | divergence, nats an unforced token | answer loss | macro-F1 | 4 bits in |"]
        lines += ["|---|---:|---:|---:|---:|---|"]
        for index, (solution, forecast) in enumerate(zip(self.solutions, self.forecasts, strict=True)):
            coarse = [name for name, option in solution.options.items() if option.quantizations]
            lines.append(
                f"| {'next best' if index else 'best'} | {format_bytes(solution.memory_plan.planned_bytes)} | "
                f"{forecast.logits_divergence:.4f} | {forecast.answer_loss:.4f} | {forecast.macro_f1:.3f} | "
                f"{_summary(solution, coarse)} |"
            )
        return "\n".join(lines)


def plan_automatically(
    checkpoint: Checkpoint,
    measurements: Path,
    target: str,
    budget_bytes: int,
    context: int | None = None,
    image: ImageOptions = AS_SUGGESTED,
) -> AutoPlan:
    """The plan of least predicted loss within ``budget_bytes``, by what ``edge-engines sensitivity`` measured.

    Raises:
        RecipeError: the measurements are of another checkpoint, or of nothing that the target executes.
        CalibrationError: the file holds no measurements.
        BudgetExceededError: no plan is small enough.
    """
    journal = load_journal(measurements)
    if (found := checkpoint.sha256()) != journal.binding.get("checkpoint"):
        raise RecipeError(
            f"{measurements} was measured on another checkpoint than {checkpoint.name}, whose hash is {found[:12]}...; "
            f"run edge-engines sensitivity on this one"
        )
    if Experiment({}).key not in journal.results:
        raise RecipeError(f"{measurements} lacks the untouched model; let edge-engines sensitivity go on with it")
    groups = weight_groups(read_model(checkpoint), int(journal.binding["block_groups"]))
    context_tokens = plan_bundle(checkpoint, load_recipe("fp16"), target, context, image=image).context_tokens
    choices = choices_of(groups, journal, target, context_tokens)
    solutions = solve(
        choices, lambda p: plan_bundle(checkpoint, p, target, context, image=image).memory_plan, budget_bytes
    )
    forecasts = tuple(forecast(journal, solution.loss) for solution in solutions)
    return AutoPlan(solutions, forecasts, forecast(journal, 0.0))


def forecast(journal: Journal, loss: float) -> Forecast:
    """What experiments of about that divergence did, by least squares through the untouched model.

    Those with several times the loss say nothing of it, as a model that is broken is broken.
    """
    untouched = journal.results[Experiment({}).key]
    near = [r for r in journal.results.values() if 0 < r.logits_divergence <= max(3 * loss, _SMALL_LOSS)]
    divergences = np.array([result.logits_divergence for result in near])

    def expected(start: float, values: Sequence[float]) -> float:
        if not near:
            return start
        slope = float(divergences @ (np.array(values) - start) / (divergences @ divergences))
        return start + slope * loss

    return Forecast(
        macro_f1=min(expected(untouched.macro_f1, [result.macro_f1 for result in near]), 1.0),
        answer_loss=expected(untouched.answer_loss, [result.answer_loss for result in near]),
        logits_divergence=loss,
    )


def _summary(solution: Solution, coarse: Sequence[str]) -> str:
    by_quantization: dict[str, list[str]] = {}
    for name in coarse:
        by_quantization.setdefault(str(next(iter(solution.options[name].quantizations.values()))), []).append(name)
    usual = max(by_quantization, key=lambda quantization: len(by_quantization[quantization]), default="")
    if coarse and len(coarse) == len(solution.options):
        others = [
            f"{', '.join(names)} by {quantization}"
            for quantization, names in by_quantization.items()
            if quantization != usual
        ]
        return ", but ".join([f"everything by {usual}", *(["; ".join(others)] if others else [])])
    return (
        "; ".join(f"{quantization}: {', '.join(names)}" for quantization, names in by_quantization.items()) or "nothing"
    )
