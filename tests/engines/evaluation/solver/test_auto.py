"""The recipe auto on a tiny model: from measurements to a bundle, and what it refuses."""

import json
from dataclasses import asdict, replace

import pytest

from edge_runtime.errors import BudgetExceededError, CalibrationError, RecipeError
from engines.build import build
from engines.calibration.images import open_images
from engines.cli import main
from engines.evaluation.sensitivity.grid import Experiment, one_at_a_time
from engines.evaluation.sensitivity.outcomes import Result
from engines.evaluation.sensitivity.run import Study
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization
from engines.evaluation.solver.auto import forecast, plan_automatically
from engines.families.synthetic import open_checkpoint
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe

TINY = "synthetic:tiny-llava"
CHECKPOINT = open_checkpoint(TINY)
STUDY = Study(TINY, scenes=2, block_groups=2)
UNTOUCHED = Result(0.9, 0.8, 0.1, 0.1, 0.9, 0.8, 0.5, 0.0, 0.0)


def memory_plan(recipe):
    return plan_bundle(CHECKPOINT, load_recipe(recipe), "onnxruntime").memory_plan.planned_bytes


@pytest.fixture
def measurements(tmp_path):
    """As if the vision encoder lost ten times what the language model loses, and rounding to nearest twice what GPTQ
    does."""
    journal = STUDY.journal(tmp_path / "measured.jsonl", open_images("rendered:1"))
    for experiment in one_at_a_time(
        STUDY.groups(), [WeightQuantization("rtn", 4), WeightQuantization("gptq", 4), WeightQuantization("rtn", 8)]
    ):
        loss = 0.0
        for group, quantization in experiment.quantizations.items():
            loss = (0.01 if group.startswith("vision") else 0.001) * (1 if quantization.method == "gptq" else 2)
        found = replace(UNTOUCHED, macro_f1=0.9 - loss, answer_loss=0.5 + loss, logits_divergence=loss)
        journal.add(experiment.key, found)
    return journal.path


def test_with_room_for_the_eyes_the_eyes_keep_float16(measurements):
    auto = plan_automatically(CHECKPOINT, measurements, "onnxruntime", memory_plan("asymmetric-int4"))

    components = auto.best.precisions.components
    coarse = {kind: {p.method for _, p in precision.exceptions} for kind, precision in components.items()}
    assert not coarse["vision_encoder"]
    assert coarse["decoder"] == {"gptq"}
    assert auto.best.memory_plan.planned_bytes <= memory_plan("asymmetric-int4")
    assert len(auto.solutions) == 4


def test_a_forecast_follows_what_was_measured(measurements):
    auto = plan_automatically(CHECKPOINT, measurements, "onnxruntime", memory_plan("uniform-int4") + 20_000)

    expected = auto.forecasts[0]
    assert expected.macro_f1 == pytest.approx(0.9 - auto.best.loss)
    assert expected.answer_loss == pytest.approx(0.5 + auto.best.loss)
    assert auto.untouched.macro_f1 == 0.9


def test_it_builds_and_weighs_what_was_planned(measurements, tmp_path):
    budget = memory_plan("asymmetric-int4")
    best = plan_automatically(CHECKPOINT, measurements, "onnxruntime", budget).best

    bundle = build(
        CHECKPOINT,
        best.precisions,
        "onnxruntime",
        tmp_path / "b",
        budget_bytes=budget,
        images=open_images("rendered:2"),
    )

    planned = {
        c.name: c.size_bytes for c in plan_bundle(CHECKPOINT, best.precisions, "onnxruntime").manifest.components
    }
    for component in bundle.manifest.components:
        assert component.size_bytes == pytest.approx(planned[component.name], abs=160_000)  # rotary tables
    assert bundle.manifest.recipe == "auto"


def test_the_command_says_what_was_chosen_and_what_else_there_was(measurements, capsys):
    arguments = [
        "--recipe",
        "auto",
        "--measurements",
        str(measurements),
        "--budget",
        str(memory_plan("asymmetric-int4")),
    ]

    assert main(["plan", TINY, *arguments]) == 0

    out = capsys.readouterr().out
    assert out.count("| next best |") == 3
    assert "method: gptq" in out


def test_a_budget_below_the_smallest_plan_has_its_own_exit_code(measurements, capsys):
    assert main(["plan", TINY, "--recipe", "auto", "--measurements", str(measurements), "--budget", "1MB"]) == 4
    assert "the smallest plan that was measured needs" in capsys.readouterr().err
    with pytest.raises(BudgetExceededError):
        plan_automatically(CHECKPOINT, measurements, "onnxruntime", 1_000_000)


def test_auto_without_measurements_or_budget_is_refused(capsys):
    assert main(["plan", TINY, "--recipe", "auto", "--budget", "1GB"]) == 1
    assert "--measurements" in capsys.readouterr().err


def test_measurements_of_another_checkpoint_are_refused(measurements):
    document, *rest = measurements.read_text().splitlines()
    binding = {**json.loads(document)["binding"], "checkpoint": "f" * 64}
    measurements.write_text("\n".join([json.dumps({"binding": binding}), *rest]) + "\n")

    with pytest.raises(RecipeError, match="measured on another checkpoint"):
        plan_automatically(CHECKPOINT, measurements, "onnxruntime", 10**9)


def test_a_target_that_executes_nothing_of_what_was_measured_is_told(tmp_path):
    journal = STUDY.journal(tmp_path / "m.jsonl", open_images("rendered:1"))
    for experiment in one_at_a_time(STUDY.groups(), [WeightQuantization("rtn", 2)]):
        journal.add(experiment.key, UNTOUCHED)

    with pytest.raises(RecipeError, match="no experiment that onnxruntime could execute"):
        plan_automatically(CHECKPOINT, journal.path, "onnxruntime", 10**9)


def test_no_measurements_at_all_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="holds no results"):
        plan_automatically(CHECKPOINT, tmp_path / "none.jsonl", "onnxruntime", 10**9)


def test_broken_models_do_not_bend_the_forecast(measurements):
    journal = STUDY.journal(measurements, open_images("rendered:1"))
    before = forecast(journal, 0.02)
    journal.add(
        Experiment({"lm_head": WeightQuantization("rtn", 2)}).key,
        Result(**{**asdict(UNTOUCHED), "logits_divergence": 9}),
    )

    assert forecast(journal, 0.02) == before
