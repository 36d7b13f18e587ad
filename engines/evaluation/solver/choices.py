"""What can be decided about a model, and what each decision costs by measurement; decides nothing.

Engines stack matrices that read the same input, so groups that share a stack are decided together. What was measured
of groups alone is added up: to be checked against plans that were measured whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.errors import RecipeError
from edge_runtime.memory.footprint import FOOTPRINTS
from edge_runtime.memory.plan import mapped_bytes
from engines.evaluation.sensitivity.grid import Experiment
from engines.evaluation.sensitivity.groups import WeightGroup
from engines.evaluation.sensitivity.journal import Journal
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization, quantization_from_text
from engines.quantize import CALIBRATED, QUANTIZERS
from engines.quantize.recipe import FLOAT16, NF4, Precision
from engines.targets import target_kind


@dataclass(frozen=True)
class Option:
    """One way to store a group."""

    precision: Precision
    quantizations: Mapping[str, WeightQuantization]  # by measured group; empty for float16
    loss: float  # nats an unforced token, by which they move (Kullback-Leibler)
    resident_bytes: int  # that the runtime will hold


@dataclass(frozen=True)
class Choice:
    """Matrices that get one precision, and the ways to store them; the first is float16."""

    name: str
    component: str
    matrices: tuple[str, ...]  # as engines call them
    options: tuple[Option, ...]


def choices_of(groups: Sequence[WeightGroup], journal: Journal, target: str, context_tokens: int) -> tuple[Choice, ...]:
    """Every decision there is, with those of its options that were measured and that the target executes.

    Raises:
        RecipeError: nothing was measured that the target executes.
    """
    merged: list[list[WeightGroup]] = []
    for group in groups:
        matrices = _matrices([group])
        related = [m for m in merged if matrices.keys() & _matrices(m).keys()]
        merged = [m for m in merged if m not in related] + [[*(g for m in related for g in m), group]]
    choices = tuple(_choice(members, journal, target, context_tokens) for members in merged)
    if all(len(choice.options) == 1 for choice in choices):
        raise RecipeError(
            f"{journal.path} holds no experiment that {target} could execute; measure rtn4, gptq4 or awq4 with "
            "edge-engines sensitivity"
        )
    return choices


def _choice(members: Sequence[WeightGroup], journal: Journal, target: str, context_tokens: int) -> Choice:
    untouched = journal.results[Experiment({}).key]
    component = members[0].component
    shapes = [parameter.shape for group in members for parameter in group.tensors.values()]

    def resident_bytes(precision: Precision) -> int:
        stored = sum(precision.matrix_bytes(shape[0], math.prod(shape[1:])) for shape in shapes)
        if component == "embedding":
            return mapped_bytes(stored, context_tokens)
        return round(stored * FOOTPRINTS[target].resident_per_stored[precision.dtype])

    options = [Option(FLOAT16, {}, 0.0, resident_bytes(FLOAT16))]
    for quantization in _measured(members, journal):
        precision = _precision(quantization, component, target)
        if precision is not None:
            alone = [journal.results[Experiment({group.name: quantization}).key] for group in members]
            loss = sum(result.logits_divergence - untouched.logits_divergence for result in alone)
            quantizations = dict.fromkeys((group.name for group in members), quantization)
            options.append(Option(precision, quantizations, loss, resident_bytes(precision)))
    name = "+".join(group.name for group in members)
    return Choice(name, component, tuple(_matrices(members)), tuple(options))


def _measured(members: Sequence[WeightGroup], journal: Journal) -> list[WeightQuantization]:
    """WeightQuantizations of which each member alone was measured."""
    texts = {text for key in journal.results for text in _single(key, members[0].name)}
    quantizations = [quantization_from_text(text) for text in sorted(texts)]
    return [t for t in quantizations if all(Experiment({g.name: t}).key in journal.results for g in members)]


def _single(key: str, group: str) -> list[str]:
    begin, end = f'{{"{group}": "', '"}'
    return [key[len(begin) : -len(end)]] if key.startswith(begin) and '", "' not in key else []


def _precision(quantization: WeightQuantization, component: str, target: str) -> Precision | None:
    """How a recipe says it; None where no engine does that."""
    if quantization.method == "nf":
        return NF4 if NF4.dtype in target_kind(target).weights and component != "embedding" else None
    if quantization.bits != 4:
        return None
    method = quantization.method
    if component == "embedding" and method in CALIBRATED:
        method = "fitted"  # as it was measured: a table meets no inputs
    return Precision("int4", method, quantization.block_size) if method in {*QUANTIZERS, *CALIBRATED} else None


def _matrices(groups: Sequence[WeightGroup]) -> dict[str, None]:
    """The engine's matrices in which the groups have a part, in order."""
    return {parameter.matrix: None for group in groups for parameter in group.tensors.values()}
