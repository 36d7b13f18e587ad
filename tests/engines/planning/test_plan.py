"""Planning: what fits a device, what would make it fit, and how fast it ought to be, before anything is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edge_runtime.errors import CheckpointError, RecipeError
from engines.build import build
from engines.cli import main
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.planning.devices import known_devices, load_device
from engines.planning.latency_model import predict
from engines.planning.plan import plan_bundle
from engines.planning.plan_report import outlook
from engines.quantize.recipe import load_recipe

PROFILE = """\
summary: a machine
target: onnxruntime
memory_bytes: 8000000000
reserve_bytes: 1000000000
read_bytes_per_s: 1.0e+10
read_share: 0.5
operations_per_s: {float16: 1.0e+12, int8: 1.0e+12, int4: 1.0e+12, nf4: 1.0e+12}
operations_share: 1.0
"""


def plan_of(name="llava-1.5-7b", recipe="asymmetric-int4", target="onnxruntime", context=None):
    return plan_bundle(open_checkpoint(f"synthetic:{name}"), load_recipe(recipe), target, context)


def outlook_of(name="llava-1.5-7b", device="cpu-2-cores-24gb", budget_bytes=None, context=None):
    checkpoint, recipe, profile = (
        open_checkpoint(f"synthetic:{name}"),
        load_recipe("asymmetric-int4"),
        load_device(device),
    )
    plan = plan_bundle(checkpoint, recipe, profile.target, context)
    return outlook(checkpoint, recipe, plan, profile, budget_bytes)


@pytest.mark.parametrize("name", known_devices())
def test_every_device_leaves_most_of_its_memory_to_the_runtime(name):
    device = load_device(name)

    assert device.name == name
    assert device.budget_bytes > 0.7 * device.memory_bytes
    assert device.operations_per_s["int8"] >= device.operations_per_s["float16"]


def test_a_device_of_ones_own_is_a_yaml_file(tmp_path):
    (tmp_path / "drone.yaml").write_text(PROFILE)

    device = load_device(str(tmp_path / "drone.yaml"))

    assert (device.name, device.budget_bytes) == ("drone", 7_000_000_000)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("summary: a machine\n", ""), "expected memory_bytes, operations_per_s"),
        (("8000000000", "none"), "memory_bytes 'none'"),
        (("8000000000", "-1"), "memory_bytes -1"),
        (("1000000000", "9000000000"), "reserve_bytes 9000000000; expected a number above 0 and below 8e"),
        (("read_share: 0.5", "read_share: 1.5"), "read_share 1.5"),
        (("int8: 1.0e+12, ", ""), "expected one for each of"),
        (("target: onnxruntime", "target: ]"), "is not YAML"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_field(tmp_path, change, complaint):
    path = tmp_path / "drone.yaml"
    path.write_text(PROFILE.replace(*change, 1))

    with pytest.raises(RecipeError, match=complaint):
        load_device(str(path))


def test_an_unknown_device_is_refused_with_the_known():
    with pytest.raises(RecipeError, match="orin-nx-16gb"):
        load_device("orin-xxl")


def test_a_7b_in_4_bits_fits_an_orin_nx_16gb_and_in_float16_does_not(capsys):
    command = ["plan", "synthetic:llava-1.5-7b", "--device", "orin-nx-16gb", "--target", "tensorrt-rtx"]

    assert main([*command, "--recipe", "asymmetric-int4"]) == 0
    assert main([*command, "--recipe", "fp16"]) == 4

    assert "more than the budget of 14.27 GB" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "limit_bytes"), [("llava-1.5-13b", 10_400_000_000), ("llava-1.5-7b", 6_000_000_000)])
def test_with_words_keys_and_values_in_few_bits_a_model_fits_a_small_machine_with_2048_tokens(name, limit_bytes):
    plan = plan_of(name, "compact-int4")
    assert plan.context_tokens == 2048
    assert plan.memory_plan.planned_bytes <= limit_bytes < plan_of(name).memory_plan.planned_bytes


def test_a_recipe_is_not_advised_to_a_target_that_cannot_take_it(capsys):
    assert main(["plan", "synthetic:llava-1.5-13b", "--recipe", "fp16", "--device", "orin-nx-16gb"]) == 4
    assert "compact-int4" not in capsys.readouterr().out


def test_a_plan_that_needs_all_there_is_fits_and_one_byte_less_does_not(capsys):
    needed_bytes = plan_of("tiny-llava").memory_plan.planned_bytes
    command = ["plan", "synthetic:tiny-llava", "--json", "--budget"]

    assert main([*command, str(needed_bytes)]) == 0
    assert main([*command, str(needed_bytes - 1)]) == 4

    exact, short = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (exact["fits"], exact["changes"]) == (True, [])
    assert (short["fits"], short["memory_bytes"] - short["budget_bytes"]) == (False, 1)


def test_a_budget_below_what_a_device_has_counts_and_one_above_does_not():
    small, large = outlook_of(budget_bytes=10**9), outlook_of(budget_bytes=10**12)

    assert small.memory_plan.budget_bytes == 10**9
    assert large.memory_plan.budget_bytes == load_device("cpu-2-cores-24gb").budget_bytes


def test_what_is_named_to_make_it_fit_does_make_it_fit():
    needed_bytes = plan_of(context=2048).memory_plan.planned_bytes

    found = outlook_of(budget_bytes=needed_bytes - 100_000_000)

    [context] = [change for change in found.changes if change.options.startswith("--context")]
    again = plan_of(context=int(context.options.split()[-1])).memory_plan.planned_bytes
    assert context.fits
    assert context.needed_bytes == again <= needed_bytes - 100_000_000
    assert plan_of(context=int(context.options.split()[-1]) + 64).memory_plan.planned_bytes > needed_bytes - 100_000_000


def test_what_is_not_enough_is_named_with_what_is_still_missing():
    found = outlook_of("llava-1.5-13b", budget_bytes=6_000_000_000)

    smaller = [change for change in found.changes if not change.options.startswith("--device")]
    assert smaller
    assert not any(change.fits for change in smaller)
    assert "too much" in str(found)


def test_a_recipe_that_blinds_the_eyes_is_named_with_a_caution():
    found = outlook_of("llava-1.5-13b", budget_bytes=6_000_000_000)

    cautions = {change.options.split()[1]: change.caution for change in found.changes if "--recipe" in change.options}
    assert "vision encoder" in cautions["uniform-int4"]


def test_the_prediction_for_an_orin_nx_is_near_what_was_published():
    # TensorRT Edge-LLM 0.9 writes 18.9 tokens/s there with Qwen3-VL-8B in 4 bits, prefills 292 tokens in 462 ms.
    prediction = predict(plan_of(target="tensorrt-rtx"), load_device("orin-nx-16gb"))

    assert prediction.tokens_per_s == pytest.approx(18.9, rel=0.25)
    assert prediction.prefill_s == pytest.approx(0.462 * (576 + 32) / 292, rel=0.35)


def test_the_prediction_for_a_cpu_is_near_what_was_measured():
    # One layer's matrices of a 7B: 4.1 ms for a token and 683 ms for 640; the head's 525 MB at the same rate.
    prediction = predict(plan_of(), load_device("cpu-2-cores-24gb"))

    assert prediction.token_s == pytest.approx(32 * 4.1e-3 + 0.525 / 24.8, rel=0.35)
    assert prediction.prefill_s == pytest.approx(32 * 0.683 * (576 + 32) / 640, rel=0.15)


def test_the_prediction_for_a_cpu_with_amx_is_near_what_was_measured():
    # make bench-peers: 0.12 to 0.16 s a token, 4.1 s for a prompt of 640, 0.75 s to see.
    prediction = predict(plan_of(recipe="language-int4", target="onnxruntime-amx"), load_device("cpu-amx-2-cores-24gb"))

    assert prediction.token_s == pytest.approx(0.14, rel=0.15)
    assert prediction.prefill_s == pytest.approx(4.1 * (576 + 32) / 640, rel=0.15)
    assert prediction.vision_s == pytest.approx(0.75, rel=0.2)


def test_twice_the_bandwidth_halves_the_time_of_a_token_and_nothing_else():
    plan, device = plan_of(), load_device("orin-nx-16gb")

    one, two = predict(plan, device), predict(plan, replace(device, read_bytes_per_s=2 * device.read_bytes_per_s))

    assert two.token_s == pytest.approx(one.token_s / 2)
    assert (two.vision_s, two.prefill_s) == (one.vision_s, one.prefill_s)


def test_a_prediction_says_that_it_is_one(capsys):
    assert main(["plan", "synthetic:llava-1.5-7b", "--device", "cpu-2-cores-24gb"]) == 0

    assert "predicted from bandwidth and arithmetic, not measured" in capsys.readouterr().out


def test_nothing_is_predicted_for_another_target_than_the_one_whose_rates_the_device_has(capsys):
    command = ["plan", "synthetic:llava-1.5-7b", "--device", "orin-nx-16gb", "--target", "onnxruntime"]
    assert main(command) == 0

    assert "predicted" not in capsys.readouterr().out


@pytest.mark.parametrize("command", [["plan"], ["build", "--out", "bundle"]])
def test_a_context_that_leaves_no_room_for_an_answer_is_refused_with_one_that_does(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)

    assert main([*command, "synthetic:tiny-llava", "--context", "5"]) == 1

    said = capsys.readouterr().err
    assert "a context of 5 tokens leaves no room for an answer" in said
    advised = int(said.split("--context of ")[1].split(",")[0])
    assert plan_of("tiny-llava", context=advised).context_tokens == advised


@pytest.mark.parametrize("context", [None, 600, 1024])
def test_a_prompt_that_is_longer_than_the_context_is_refused(context):
    tiny = open_checkpoint("synthetic:tiny-llava")
    checkpoint = replace(tiny, prompt={"before_image": "crack? " * 1000, "after_image": "\nASSISTANT:"})

    with pytest.raises(RecipeError, match=r"leaves no room for an answer: the prompt takes \d+.*take a shorter prompt"):
        plan_bundle(checkpoint, load_recipe("fp16"), "onnxruntime", context)


def test_a_prompt_that_is_longer_than_the_context_asked_for_is_refused_with_one_that_is_not():
    tiny = open_checkpoint("synthetic:tiny-llava")
    checkpoint = replace(tiny, prompt={"before_image": "c" * 560, "after_image": "\nASSISTANT:"})

    with pytest.raises(RecipeError, match="leaves no room for an answer") as error:
        plan_bundle(checkpoint, load_recipe("fp16"), "onnxruntime", 530)

    advised = int(str(error.value).split("--context of ")[1].split(",")[0])
    assert plan_bundle(checkpoint, load_recipe("fp16"), "onnxruntime", advised).context_tokens == advised


def test_a_tokenizer_with_tokens_beyond_the_embedding_is_refused():
    tiny = open_checkpoint("synthetic:tiny-llava")
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json.decode())
    tokenizer.add_special_tokens([f"<{number}>" for number in range(600)])
    checkpoint = replace(
        tiny, tokenizer_json=tokenizer.to_str().encode(), prompt={"before_image": "<599>", "after_image": ":"}
    )

    with pytest.raises(CheckpointError, match=r"gives the prompt a token \d+, and the embedding has rows for 512"):
        plan_bundle(checkpoint, load_recipe("fp16"), "onnxruntime")


@pytest.mark.parametrize("command", [["plan"], ["build", "--out", "bundle"]])
def test_a_context_beyond_the_models_positions_is_refused_with_the_most_it_has(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)

    assert main([*command, "synthetic:tiny-llava", "--context", "1025"]) == 1

    assert "a --context of 1024 at most" in capsys.readouterr().err
    assert plan_of("tiny-llava", context=1024).context_tokens == 1024


def test_scratch_is_planned_for_the_longest_step_and_not_for_the_whole_context():
    short, long = (plan_of(target="tensorrt-rtx", context=context).memory_plan for context in (2048, 4096))

    grown_bytes = long.item("activations").planned_bytes - short.item("activations").planned_bytes
    assert grown_bytes == 4 * 32 * (576 + 512) * 2048  # scores of its rows with the tokens that are more


def test_a_tiled_model_is_planned_with_the_most_tokens_that_an_image_can_have():
    plan = plan_of("llava-1.6-mistral-7b")

    assert plan.model.image.max_tokens == 576 + 48 * 49  # the whole image, and 2 x 2 tiles with their newlines
    assert plan.context_tokens > 2928
    assert plan.model.vision.rows == 5 * 577


def test_a_model_that_attends_to_images_apart_keeps_their_keys_and_values_whatever_the_context():
    short, long = (plan_of("llama-3.2-vision-11b", context=context).memory_plan for context in (1024, 4096))

    assert short.item("image_cache") == long.item("image_cache")
    assert short.item("image_cache").planned_bytes == 2 * 8 * 8 * 128 * 4 * 1601 * 4  # of 8 layers, 8 heads, 4 tiles
    assert long.item("kv_cache").planned_bytes == 2 * 32 * 8 * 128 * 4096 * 4  # of the other 32 layers


@pytest.mark.parametrize(
    ("name", "parameters", "is_built"),
    [("llava-1.6-mistral-7b", 7_566_747_648, True), ("llama-3.2-vision-11b", 10_670_220_835, False)],
)
def test_synthetic_models_have_the_size_of_the_real_ones(name, parameters, is_built):
    model = read_model(open_checkpoint(f"synthetic:{name}"))
    checkpoint = open_checkpoint(f"synthetic:{name}")

    assert sum(_size(checkpoint.shape(tensor)) for tensor in checkpoint) == parameters
    assert bool(model.only_planned) != is_built


@pytest.mark.parametrize("pattern", ["*.product", "*.layers.99.self_attn.products", "*.mlp.fc3"])
def test_an_exception_that_fits_no_matrix_is_refused_with_the_names_that_there_are(tmp_path, capsys, pattern):
    text = (Path("engines/recipes/selective-int8.yaml")).read_text().replace("*.mlp.*", pattern)
    (tmp_path / "recipe.yaml").write_text(text)

    assert main(["plan", "synthetic:tiny-llava", "--recipe", str(tmp_path / "recipe.yaml")]) == 1

    said = capsys.readouterr().err
    assert pattern in said
    assert "vision_tower.vision_model.embeddings.patch_embedding" in said


def test_a_model_that_is_only_planned_is_not_built(tmp_path):
    checkpoint = open_checkpoint("synthetic:llama-3.2-vision-11b")

    with pytest.raises(CheckpointError, match="can be planned, and not built: there are no graphs"):
        build(checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle")

    assert list(tmp_path.iterdir()) == []


def _size(shape):
    size = 1
    for length in shape:
        size *= length
    return size
