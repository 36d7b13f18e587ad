"""Results of experiments as tables: what each part of a model loses by each quantization; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engines.evaluation.sensitivity.grid import Experiment, together
from engines.evaluation.sensitivity.groups import WeightGroup
from engines.evaluation.sensitivity.journal import Journal
from engines.evaluation.sensitivity.outcomes import Result
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization

# What a quantization costs, each as a difference from the untouched model that grows as things get worse.
MEASURES: Mapping[str, Callable[[Result, Result], float | None]] = {
    "answer_loss": lambda found, untouched: found.answer_loss - untouched.answer_loss,
    "question_loss": lambda found, untouched: _difference(found.question_loss, untouched.question_loss),
    "logits_divergence": lambda found, _: found.logits_divergence,
    "features_error": lambda found, _: found.features_error,
    "macro_f1": lambda found, untouched: untouched.macro_f1 - found.macro_f1,
    "caption_overlap": lambda found, untouched: untouched.caption_overlap - found.caption_overlap,
    "severity_exact": lambda found, untouched: untouched.severity_exact - found.severity_exact,
    "hallucinated": lambda found, untouched: found.hallucinated - untouched.hallucinated,
}


def alone(
    journal: Journal, groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization], measure: str
) -> dict[str, dict[str, float]]:
    """What each group lost by each quantization when only it was quantized; what was not measured is left out."""
    untouched = journal.results[Experiment({}).key]
    found: dict[str, dict[str, float]] = {}
    for group in groups:
        results = {str(t): journal.results.get(Experiment({group.name: t}).key) for t in quantizations}
        losses = {name: MEASURES[measure](result, untouched) for name, result in results.items() if result is not None}
        found[group.name] = {name: loss for name, loss in losses.items() if loss is not None}
    return found


def _difference(found: float | None, untouched: float | None) -> float | None:
    return None if found is None or untouched is None else found - untouched


def sensitivity_table(
    journal: Journal, groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization]
) -> str:
    """Nats a thousand tokens by which every group, at every quantization, moves the next one's choice, as Markdown."""
    losses = alone(journal, groups, quantizations, "logits_divergence")
    columns = [str(quantization) for quantization in quantizations]
    lines = ["| group | parameters | " + " | ".join(columns) + " |", "|---|---:|" + "---:|" * len(columns)]
    for group in groups:
        cells = (f"{1000 * losses[group.name][c]:.2f}" if c in losses[group.name] else "" for c in columns)
        lines.append(f"| {group.name} | {group.parameters / 1000:.0f} k | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def component_table(
    journal: Journal,
    groups: Sequence[WeightGroup],
    quantizations: Sequence[WeightQuantization],
    measure: str,
    *,
    per_million: bool = False,
) -> str:
    """What the model loses with all of a component quantized, and with everything, a quantization a row, as Markdown.

    Components differ in size: what a million parameters of each are worth shows where bits are spent best.
    """
    components = (*dict.fromkeys(group.component for group in groups), "")
    sizes = {c: sum(group.parameters for group in groups if c in ("", group.component)) / 1e6 for c in components}
    lines = [f"| {measure} | " + " | ".join(f"{c or 'everything'} ({sizes[c]:.2f} M)" for c in components) + " |"]
    lines.append("|---|" + "---:|" * len(components))
    untouched = journal.results[Experiment({}).key]
    for quantization in quantizations:
        cells = []
        for component in components:
            result = journal.results.get(together(groups, quantization, component).key)
            lost = None if result is None else MEASURES[measure](result, untouched)
            cells.append("" if lost is None else f"{lost / (sizes[component] if per_million else 1):.4f}")
        if any(cells):
            lines.append(f"| {quantization} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(
    journal: Journal, groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization]
) -> dict[str, Any]:
    """Every measure of every group by quantization."""
    return {
        "groups": {group.name: group.parameters for group in groups},
        **{measure: alone(journal, groups, quantizations, measure) for measure in MEASURES},
    }
