"""Which experiments to make: every group treated alone, components whole, random plans that show how harms add up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.evaluation.sensitivity.groups import WeightGroup
from engines.evaluation.sensitivity.treatments import Treatment


@dataclass(frozen=True)
class Experiment:
    """What is done to which groups; others stay float16."""

    treatments: Mapping[str, Treatment]  # by the group's name

    @property
    def key(self) -> str:
        """The experiment as text, the same for the same experiment."""
        return json.dumps({name: str(treatment) for name, treatment in self.treatments.items()}, sort_keys=True)


def one_at_a_time(groups: Sequence[WeightGroup], treatments: Sequence[Treatment]) -> Iterator[Experiment]:
    """The model as it is, then every treatment of every group alone."""
    yield Experiment({})
    for treatment in treatments:
        for group in groups:
            yield Experiment({group.name: treatment})


def together(groups: Sequence[WeightGroup], treatment: Treatment, component: str = "") -> Experiment:
    """One treatment of all groups, or of those of one component."""
    return Experiment({group.name: treatment for group in groups if component in ("", group.component)})


def whole_components(groups: Sequence[WeightGroup], treatments: Sequence[Treatment]) -> Iterator[Experiment]:
    """Every treatment of every component, and of the whole model; those of one group are tried alone already."""
    components = dict.fromkeys(group.component for group in groups)
    for treatment in treatments:
        found = [together(groups, treatment, component) for component in ("", *components)]
        yield from (experiment for experiment in found if len(experiment.treatments) > 1)


def combinations(
    groups: Sequence[WeightGroup], treatments: Sequence[Treatment], count: int, seed: int = 0
) -> Iterator[Experiment]:
    """``count`` plans: each has its own share of groups that are treated, and these any treatment."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        share = rng.uniform(0.2, 1)
        treated = [group for group in groups if rng.random() < share]
        yield Experiment({group.name: treatments[int(rng.integers(len(treatments)))] for group in treated})
