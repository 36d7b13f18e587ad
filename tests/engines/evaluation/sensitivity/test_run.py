"""Experiments end to end on a tiny model: measured, kept, resumed, and bound to what they are about."""

import json
from functools import partial

import pytest

from edge_runtime.errors import CalibrationError
from engines.calibration.images import CalibrationImages, open_images
from engines.cli import main
from engines.evaluation.sensitivity.executors import in_processes
from engines.evaluation.sensitivity.grid import Experiment, combinations, one_at_a_time
from engines.evaluation.sensitivity.journal import load_journal
from engines.evaluation.sensitivity.run import Study, run_experiments
from engines.evaluation.sensitivity.table import alone, sensitivity_table
from engines.evaluation.sensitivity.tensors import write_quantized
from engines.evaluation.sensitivity.weight_quantization import WeightQuantization
from engines.families.synthetic import open_checkpoint

STUDY = Study("synthetic:tiny-llava", scenes=2, block_groups=2)
IMAGES = open_images("rendered:3")
HERE = partial(in_processes, processes=1)
COARSE, FINE = WeightQuantization("rtn", 2), WeightQuantization("rtn", 8)
EXPERIMENTS = [
    Experiment({}),
    Experiment({"vision_encoder.0.ffn": COARSE}),
    Experiment({"vision_encoder.0.ffn": FINE}),
    Experiment({"decoder.2-3.down": COARSE}),
]


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    path = tmp_path_factory.mktemp("sensitivity") / "results.jsonl"
    journal = STUDY.journal(path, IMAGES)
    run_experiments(STUDY, EXPERIMENTS, IMAGES, journal, HERE)
    return journal


def result(journal, experiment):
    return load_journal(journal.path).results[experiment.key]


def test_the_untouched_model_is_no_distance_from_itself(journal):
    untouched = result(journal, EXPERIMENTS[0])

    assert untouched.features_error == untouched.logits_divergence == 0


def test_two_bits_move_more_than_eight(journal):
    _, coarse, fine, _ = (result(journal, experiment) for experiment in EXPERIMENTS)

    assert 0 < fine.features_error < coarse.features_error / 10
    assert 0 <= fine.logits_divergence < coarse.logits_divergence


def test_what_the_decoder_loses_the_eyes_do_not(journal):
    decoder = result(journal, EXPERIMENTS[3])

    assert decoder.features_error == 0
    assert decoder.logits_divergence > 0


def test_what_is_there_is_not_measured_again(journal):
    before = journal.path.read_bytes()

    run_experiments(STUDY, EXPERIMENTS, IMAGES, STUDY.journal(journal.path, IMAGES), HERE)

    assert journal.path.read_bytes() == before


def test_a_line_cut_short_is_left_out(journal, tmp_path):
    text = journal.path.read_text()
    path = tmp_path / "cut.jsonl"
    path.write_text(text[:-30])

    found = load_journal(path)

    assert len(found.results) == len(EXPERIMENTS) - 1
    assert path.read_text().endswith("\n")


def test_results_of_another_study_are_refused(journal):
    other = Study(STUDY.checkpoint, scenes=3, block_groups=2)

    with pytest.raises(CalibrationError, match=r"holds results for scenes 2, and this run is for 3"):
        other.journal(journal.path, IMAGES)


@pytest.mark.parametrize("text", ["", "nonsense\n", json.dumps({"binding": {}}) + "\n{}\n"])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)

    with pytest.raises(CalibrationError, match="holds no results of edge-engines sensitivity"):
        load_journal(tmp_path / "x.jsonl")


def test_the_table_says_what_every_group_lost_by_every_quantization(journal):
    groups = STUDY.groups()

    losses = alone(journal, groups, [COARSE, FINE], "features_error")
    rows = sensitivity_table(journal, groups, [COARSE, FINE]).splitlines()

    assert losses["vision_encoder.0.ffn"]["rtn2"] > losses["vision_encoder.0.ffn"]["rtn8"] > 0
    assert losses["decoder.2-3.down"] == {"rtn2": 0}
    assert rows[0] == "| group | parameters | rtn2 | rtn8 |"
    assert len(rows) == 2 + len(groups)


def test_rounding_by_weights_alone_looks_at_no_images_and_gives_what_it_gives_beside_others(tmp_path):
    def no_images():
        raise AssertionError("images were looked at")

    checkpoint, unread = open_checkpoint(STUDY.checkpoint), CalibrationImages("none", "", 1, no_images)
    write_quantized(checkpoint, unread, [COARSE], tmp_path / "alone")
    write_quantized(checkpoint, IMAGES, [COARSE, WeightQuantization("gptq", 4)], tmp_path / "beside")

    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert alone
    assert alone == {path.name: path.read_bytes() for path in (tmp_path / "beside").glob("*.rtn2.npy")}


def test_the_command_measures_every_group_and_says_what_it_found(tmp_path, capsys):
    counts = {"scenes": 1, "combinations": 1, "processes": 1, "block-groups": 1}
    options = [text for name, count in counts.items() for text in (f"--{name}", str(count))]
    where = ["--out", str(tmp_path / "found.jsonl"), "--images", "rendered:2", "--quantizations", "rtn3", "--json"]

    assert main(["sensitivity", STUDY.checkpoint, *where, *options]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["groups"].keys() == found["logits_divergence"].keys()
    assert found["logits_divergence"]["decoder.0-3.down"]["rtn3"] > 0


def test_every_matrix_is_in_one_group():
    tensors = [name for group in STUDY.groups() for name in group.tensors]

    assert len(tensors) == len(set(tensors))
    assert {group.component for group in STUDY.groups()} == {
        "vision_encoder",
        "connector",
        "embedding",
        "decoder",
        "lm_head",
    }
    assert "decoder.0-1.qk" in {group.name for group in STUDY.groups()}


def test_the_grid_has_every_quantization_of_every_group_once():
    groups = STUDY.groups()

    grid = list(one_at_a_time(groups, [COARSE, FINE]))

    assert len({experiment.key for experiment in grid}) == len(grid) == 1 + 2 * len(groups)


def test_combinations_are_the_same_every_time_and_differ_in_how_much_they_treat():
    first, second = (list(combinations(STUDY.groups(), [COARSE, FINE], 20)) for _ in range(2))

    assert [experiment.key for experiment in first] == [experiment.key for experiment in second]
    assert len({len(experiment.quantizations) for experiment in first}) > 5
