"""Which experiments to make: every group quantized alone, components whole, random plans that show how harms add up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.evaluation.sensitivity.groups import WeightGroup
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization


@dataclass(frozen=True)
class Experiment:
    """What is done to which groups; others stay float16."""

    quantizations: Mapping[str, WeightQuantization]  # by the group's name

    @property
    def key(self) -> str:
        """The experiment as text, the same for the same experiment."""
        return json.dumps(
            {name: str(quantization) for name, quantization in self.quantizations.items()}, sort_keys=True
        )


def one_at_a_time(groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization]) -> Iterator[Experiment]:
    """The model as it is, then every quantization of every group alone."""
    yield Experiment({})
    for quantization in quantizations:
        for group in groups:
            yield Experiment({group.name: quantization})


def together(groups: Sequence[WeightGroup], quantization: WeightQuantization, component: str = "") -> Experiment:
    """One quantization of all groups, or of those of one component."""
    return Experiment({group.name: quantization for group in groups if component in ("", group.component)})


def whole_components(
    groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization]
) -> Iterator[Experiment]:
    """Every quantization of every component, and of the whole model; those of one group are tried alone already."""
    components = dict.fromkeys(group.component for group in groups)
    for quantization in quantizations:
        found = [together(groups, quantization, component) for component in ("", *components)]
        yield from (experiment for experiment in found if len(experiment.quantizations) > 1)


def combinations(
    groups: Sequence[WeightGroup], quantizations: Sequence[WeightQuantization], count: int, seed: int = 0
) -> Iterator[Experiment]:
    """``count`` plans: each has its own share of groups that are quantized, and these any quantization."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        share = rng.uniform(0.2, 1)
        quantized = [group for group in groups if rng.random() < share]
        yield Experiment({group.name: quantizations[int(rng.integers(len(quantizations)))] for group in quantized})
