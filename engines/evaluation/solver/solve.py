"""The plan of least predicted loss that fits a memory budget: an integer program, solved by HiGHS through scipy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edge_runtime.bundle.manifest import ROLES
from edge_runtime.errors import BudgetExceededError
from edge_runtime.memory.plan import MemoryPlan, format_bytes
from engines.evaluation.solver.choices import Choice, Option
from engines.quantize.recipe import FLOAT16, Precision, PrecisionPlan

_OPTIMAL = 0  # milp's status


@dataclass(frozen=True)
class Solution:
    """A plan and what it is predicted to cost."""

    options: Mapping[str, Option]  # by the choice's name
    precisions: PrecisionPlan
    loss: float  # nats an unforced token
    memory_plan: MemoryPlan

    @property
    def weight_bytes(self) -> int:
        """What the options take."""
        return sum(option.resident_bytes for option in self.options.values())


def solve(
    choices: Sequence[Choice],
    memory_plan_of: Callable[[PrecisionPlan], MemoryPlan],
    budget_bytes: int,
    alternatives: int = 3,
) -> tuple[Solution, ...]:
    """The best plan whose memory plan is within ``budget_bytes``, then the next best ones.

    What a plan takes beside its weights, and its peak while loading, are the memory plan's business: the program knows
    weights alone, and their share of the budget is bisected until the memory plan fits.

    Raises:
        BudgetExceededError: the smallest plan is larger than the budget.
    """
    smallest = {choice.name: min(choice.options, key=lambda option: option.resident_bytes) for choice in choices}
    best = _solution(choices, smallest, memory_plan_of)
    if best.memory_plan.planned_bytes > budget_bytes:
        raise BudgetExceededError(
            f"the smallest plan that was measured needs {format_bytes(best.memory_plan.planned_bytes)}, and the budget "
            f"is {format_bytes(budget_bytes)}; raise it, shorten --context, or measure fewer bits\n\n"
            f"{best.memory_plan.table()}"
        )
    fits, limit, fails = best.weight_bytes, budget_bytes, budget_bytes + 1  # bytes of weights
    while fits < limit:
        found = _solution(choices, _choose(choices, limit), memory_plan_of)
        if found.memory_plan.planned_bytes <= budget_bytes:
            best, fits = min(best, found, key=lambda solution: solution.loss), limit
        else:
            fails = min(limit, found.weight_bytes)
        limit = min((fits + fails) // 2, fails - 1) if fails <= budget_bytes else fits
    room = budget_bytes - best.memory_plan.planned_bytes
    solutions = [best]
    while len(solutions) <= alternatives:
        chosen = _choose(choices, best.weight_bytes + room, [solution.options for solution in solutions])
        if not chosen:
            break
        solutions.append(_solution(choices, chosen, memory_plan_of))
    return tuple(solution for solution in solutions if solution.memory_plan.planned_bytes <= budget_bytes)


def _choose(
    choices: Sequence[Choice], limit_bytes: int, known: Sequence[Mapping[str, Option]] = ()
) -> dict[str, Option]:
    """One option for each choice, with the least loss; none of the plans that are known; empty if there is no other."""
    flat = [(choice, option) for choice in choices for option in choice.options]
    losses = np.array([option.loss for _, option in flat])
    sizes = np.array([[option.resident_bytes for _, option in flat]], float)
    one_each = np.array([[float(owner is choice) for owner, _ in flat] for choice in choices])
    constraints = [LinearConstraint(csr_array(one_each), 1, 1), LinearConstraint(sizes, -np.inf, limit_bytes)]
    for plan in known:
        same = np.array([[float(plan[choice.name] is option) for choice, option in flat]])
        constraints.append(LinearConstraint(same, -np.inf, len(choices) - 1))
    found = milp(losses, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints)
    if found.status != _OPTIMAL:
        return {}
    return {choice.name: option for (choice, option), taken in zip(flat, found.x, strict=True) if taken > 0.5}


def _solution(
    choices: Sequence[Choice], chosen: Mapping[str, Option], memory_plan_of: Callable[[PrecisionPlan], MemoryPlan]
) -> Solution:
    precisions = plan_from_options(choices, chosen)
    return Solution(chosen, precisions, sum(option.loss for option in chosen.values()), memory_plan_of(precisions))


def plan_from_options(choices: Sequence[Choice], chosen: Mapping[str, Option]) -> PrecisionPlan:
    """The options as a plan: float16, with an exception for every matrix that is not."""
    exceptions: dict[str, list[tuple[str, Precision]]] = {kind: [] for kind in ROLES}
    for choice in choices:
        precision = chosen[choice.name].precision
        if precision != FLOAT16:
            exceptions[choice.component] += [(matrix, precision) for matrix in choice.matrices]
    components = {kind: Precision("float16", "cast", None, tuple(items)) for kind, items in exceptions.items()}
    if components["embedding"].exceptions:  # one table, which a recipe gives one precision
        components["embedding"] = components["embedding"].exceptions[0][1]
    return PrecisionPlan("auto", hashlib.sha256(recipe_text(components).encode()).hexdigest(), components)


def recipe_text(components: Mapping[str, Precision]) -> str:
    """The plan as a recipe's YAML, to be kept, read and built again."""
    return yaml.safe_dump(
        {"components": {kind: _entry(precision) for kind, precision in components.items()}}, sort_keys=False, width=120
    )


def _entry(precision: Precision) -> object:
    fields: dict[str, object] = {"dtype": precision.dtype}
    if precision.block_size is not None:
        fields |= {"block_size": precision.block_size, "method": precision.method}
    if precision.exceptions:
        fields["except"] = {pattern: _entry(exception) for pattern, exception in precision.exceptions}
    return fields if len(fields) > 1 else precision.dtype
