"""Plans chosen from measurements: within the budget, no plan does better, and what cannot be is said."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BudgetExceededError
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization
from engines.evaluation.solver.choices import Choice, Option
from engines.evaluation.solver.solve import recipe_text, solve
from engines.quantize.recipe import FLOAT16, Precision, load_recipe

INT4 = Precision("int4", "rtn", 128)
BESIDE = 1000  # bytes of a memory plan that no plan changes


@st.composite
def choices(draw):
    """A few decoder matrices, some with a second coarse option."""
    found = []
    for index in range(draw(st.integers(1, 5))):
        wide = draw(st.integers(100, 5000))
        options = [Option(FLOAT16, {}, 0.0, wide)]
        for method in ("rtn", "gptq")[: draw(st.integers(0, 2))]:
            loss, size = draw(st.integers(1, 1000)) / 1000, draw(st.integers(20, wide))
            options.append(
                Option(Precision("int4", method, 128), {f"g{index}": WeightQuantization(method, 4)}, loss, size)
            )
        found.append(Choice(f"g{index}", "decoder", (f"layers.{index}.down_proj",), tuple(options)))
    return found


def memory_plan_of(choices):
    """Weights, what lies beside, and a peak that follows the largest matrix, as loading has."""

    def memory_plan(plan):
        sizes = [size_of(choice, plan) for choice in choices]
        items = {"beside": BESIDE, "decoder": sum(sizes), "load_peak": max(sizes) // 2}
        return MemoryPlan(tuple(MemoryPlanItem(name, size) for name, size in items.items()))

    return memory_plan


def size_of(choice, plan):
    precision = plan.components["decoder"].of(choice.matrices[0])
    [size] = [o.resident_bytes for o in choice.options if (o.precision.dtype, o.precision.method) == key(precision)]
    return size


def key(precision):
    return precision.dtype, precision.method


@given(choices(), st.integers(1000, 30_000))
def test_what_is_chosen_fits_and_no_worse_than_without_the_peak_would(choices, budget):
    memory_plan = memory_plan_of(choices)
    try:
        best, *others = solve(choices, memory_plan, budget)
    except BudgetExceededError:
        return

    assert best.memory_plan.planned_bytes <= budget
    assert all(best.loss <= other.loss + 1e-9 for other in others)
    plans = [{c.name: id(s.options[c.name]) for c in choices} for s in (best, *others)]
    assert all(one != other for one, other in itertools.combinations(plans, 2))


@given(choices(), st.integers(1000, 30_000))
def test_no_plan_does_better_where_only_weights_count(choices, budget):
    def memory_plan(plan):
        return MemoryPlan((MemoryPlanItem("decoder", sum(size_of(choice, plan) for choice in choices)),))

    every = list(itertools.product(*(choice.options for choice in choices)))
    fitting = [sum(o.loss for o in plan) for plan in every if sum(o.resident_bytes for o in plan) <= budget]
    if not fitting:
        with pytest.raises(BudgetExceededError, match="smallest plan"):
            solve(choices, memory_plan, budget)
        return

    assert solve(choices, memory_plan, budget)[0].loss == pytest.approx(min(fitting), abs=1e-6)


@given(choices())
def test_all_the_room_there_is_leaves_float16(choices):
    best = solve(choices, memory_plan_of(choices), 10**9)[0]

    assert best.loss == 0
    assert all(size_of(choice, best.precisions) for choice in choices)


def test_more_budget_never_costs_accuracy():
    rng = np.random.default_rng(0)
    options = [
        (Option(FLOAT16, {}, 0.0, 400), Option(INT4, {f"g{i}": WeightQuantization("rtn", 4)}, float(rng.gamma(1)), 100))
        for i in range(12)
    ]
    choices = [Choice(f"g{i}", "decoder", (f"layers.{i}.down_proj",), pair) for i, pair in enumerate(options)]

    losses = [solve(choices, memory_plan_of(choices), budget)[0].loss for budget in range(2500, 7000, 300)]

    assert losses == sorted(losses, reverse=True)


def test_a_plan_is_a_recipe_that_can_be_read_again(tmp_path):
    gptq = Option(Precision("int4", "gptq", 64), {"g": WeightQuantization("gptq", 4, 64)}, 0.1, 10)
    choice = Choice("g", "decoder", ("layers.0.mlp.down_proj",), (Option(FLOAT16, {}, 0.0, 100), gptq))
    best = solve([choice], memory_plan_of([choice]), 1020)[0]
    (tmp_path / "auto.yaml").write_text(recipe_text(best.precisions.components))

    again = load_recipe(str(tmp_path / "auto.yaml"))

    assert again.components == best.precisions.components
    assert again.sha256 == best.precisions.sha256
    assert again.components["decoder"].of("layers.0.mlp.down_proj") == Precision("int4", "gptq", 64)
    assert again.components["decoder"].of("layers.1.mlp.down_proj").dtype == "float16"
