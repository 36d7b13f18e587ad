"""What engines are built for and what they will weigh, decided without TensorRT."""

from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.backends.tensorrt.module import load_library
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import MissingDependencyError, RecipeError
from engines.build import build
from engines.families import read_model
from engines.families.heads import split_head
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint, synthetic_checkpoint
from engines.planning.plan import plan_bundle
from engines.planning.suggestions import changes_towards
from engines.quantize.recipe import load_recipe
from engines.targets.base import TargetOptions
from engines.targets.tensorrt import check_version
from engines.targets.tensorrt_shapes import profiles_of
from tests.conformance.bindings import VERSIONS
from tests.engines.checkpoints import changed
from tests.engines.targets.graph_execution import GraphDecoder

TINY = "synthetic:tiny-llava"
OPTIONS = TargetOptions(context_tokens=1000, step_tokens=300)
DECODER_INPUTS = [
    TensorSpec("hidden_states", "float16", (1, "T", 128)),
    TensorSpec("past_length", "int32", (1,)),
    TensorSpec("past_key.0", "float16", (1, "C", 2, 32)),
]
FP16, INT4 = (load_recipe(name).components["decoder"] for name in ("fp16", "asymmetric-int4"))


def head_part():
    [head] = [part for part in read_model(open_checkpoint(TINY)).parts if part.role == "lm_head"]
    return head


@pytest.mark.parametrize(("precision", "shares_weights"), [(FP16, True), (INT4, True), (INT4, False)])
def test_a_decoder_has_a_profile_for_prefill_and_one_for_decode(precision, shares_weights):
    prefill, decode = profiles_of("decoder", precision, DECODER_INPUTS, OPTIONS, shares_weights=shares_weights)

    assert prefill == {
        "hidden_states": ((1, 1, 128), (1, 300, 128), (1, 300, 128)),
        "past_key.0": ((1, 1, 2, 32), (1, 256, 2, 32), (1, 1024, 2, 32)),
    }
    assert decode == {
        "hidden_states": ((1, 1, 128), (1, 1, 128), (1, 1, 128)),
        "past_key.0": ((1, 1, 2, 32), (1, 768, 2, 32), (1, 1024, 2, 32)),
    }


def test_where_each_profile_would_store_float16_weights_again_they_get_one():
    [profile] = profiles_of("decoder", FP16, DECODER_INPUTS, OPTIONS, shares_weights=False)

    assert profile["hidden_states"] == ((1, 1, 128), (1, 300, 128), (1, 300, 128))


def test_a_head_is_built_for_the_one_row_that_it_sees():
    [profile] = profiles_of("lm_head", FP16, DECODER_INPUTS[:1], OPTIONS, shares_weights=True)

    assert profile == {"hidden_states": ((1, 1, 128), (1, 1, 128), (1, 1, 128))}


def test_fixed_shapes_need_no_profile():
    fixed = [TensorSpec("features", "float16", (1, 16, 64))]

    assert profiles_of("connector", FP16, fixed, OPTIONS, shares_weights=True) == []


def test_a_short_context_holds_the_likely_sizes_too():
    short = TargetOptions(context_tokens=100, step_tokens=90)

    for profile in profiles_of("decoder", INT4, DECODER_INPUTS, short, shares_weights=True):
        assert all(a <= b <= c for ranges in profile.values() for a, b, c in zip(*ranges, strict=True))


def test_a_small_head_stays_whole():
    head = head_part()

    assert split_head(head, 512 * 128) == (head,)
    assert split_head(head, None) == (head,)


def test_a_large_head_is_cut_into_parts_that_cover_the_vocabulary_in_order(tmp_path):
    pieces = split_head(head_part(), 200 * 128)

    assert [piece.name for piece in pieces] == ["lm_head.00", "lm_head.01", "lm_head.02"]
    rows = [[p.shape[0] for p in piece.parameters.values() if p.is_matrix] for piece in pieces]
    assert rows == [[200], [200], [112]]


@pytest.mark.parametrize("recipe", ["fp16", "uniform-int4"])
def test_the_parts_of_a_head_together_give_the_logits_of_the_whole(tmp_path, recipe):
    checkpoint, precisions = open_checkpoint(TINY), load_recipe(recipe)
    image = np.linspace(-1, 1, 16 * 128, dtype=np.float16).reshape(1, 16, 128)
    logits = []
    for name, largest in (("whole", None), ("parts", 200 * 128)):
        (tmp_path / name).mkdir()
        runner = GraphDecoder(tmp_path / name, checkpoint, precisions, (1, 2), head_parameters=largest)
        logits.append(runner.prefill(image, (3, 4)))

    np.testing.assert_array_equal(*logits)


def test_only_heads_are_split():
    parts = read_model(open_checkpoint(TINY)).parts

    assert {len(split_head(part, 1)) for part in parts if part.role != "lm_head"} == {1}


def test_a_plan_for_tensorrt_needs_no_tensorrt():
    plan = plan_bundle(open_checkpoint("synthetic:llava-1.5-13b"), load_recipe("asymmetric-int4"), "tensorrt-rtx")

    items = {item.name: item.planned_bytes for item in plan.memory_plan.items}
    assert items["decoder"] == pytest.approx(6.8e9, rel=0.03)
    weights = 303e6 * 2  # ViT-L/14 at 336 pixels
    assert items["vision_encoder"] == pytest.approx(weights, rel=0.05)


def test_a_plan_for_tensorrt_cuts_heads_that_tegra_may_refuse():
    wide = synthetic_checkpoint("wide", changed(SYNTHETIC_CONFIGS["llava-1.5-7b"], {"vocab_size": 128_256}))

    parts = {target: plan_bundle(wide, load_recipe("fp16"), target).parts for target in ("tensorrt-rtx", "onnxruntime")}

    heads = {target: [part.name for part in parts[target] if part.role == "lm_head"] for target in parts}
    assert heads == {"tensorrt-rtx": ["lm_head.00", "lm_head.01"], "onnxruntime": ["lm_head"]}


@pytest.mark.parametrize(("recipe", "lack"), [("nf4", "nf4 weights"), ("compact-int4", "keys and values kept as int8")])
def test_what_tensorrt_lacks_is_refused_before_anything_is_built(recipe, lack):
    with pytest.raises(RecipeError, match=f"the recipe {recipe} asks for {lack}, which tensorrt has not"):
        plan_bundle(open_checkpoint(TINY), load_recipe(recipe), "tensorrt")


def test_what_tensorrt_lacks_is_not_advised_for_it():
    checkpoint, fp16 = open_checkpoint("synthetic:llava-1.5-7b"), load_recipe("fp16")
    plans = {target: plan_bundle(checkpoint, fp16, target) for target in ("tensorrt", "onnxruntime")}

    advised = {
        target: [c.options for c in changes_towards(10**10, checkpoint, plan, fp16)] for target, plan in plans.items()
    }
    assert "--recipe nf4" in advised["onnxruntime"]
    assert "--recipe nf4" not in advised["tensorrt"]


@pytest.mark.parametrize(
    ("target", "remedy"), [("tensorrt", "JetPack"), ("tensorrt-rtx", r"pip install '\.\[tensorrt-rtx\]'")]
)
def test_a_missing_compiler_is_named_with_what_installs_it(target, remedy, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(__import__("sys").modules, name, None)

    with pytest.raises(MissingDependencyError, match=remedy):
        load_library(target)


@pytest.mark.parametrize("version", ["8.6.2.3", "10.0.1"])
def test_a_tensorrt_older_than_any_it_is_held_to_is_refused_with_the_way_on(version):
    with pytest.raises(
        MissingDependencyError, match=rf"{version} is installed, and .* need 10\.3 or newer; JetPack 6\.1"
    ):
        check_version(SimpleNamespace(__version__=version))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensorrt_that_it_is_held_to_is_taken(version):
    check_version(SimpleNamespace(__version__=version))


def test_a_build_without_its_compiler_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx_bindings", None)

    with pytest.raises(MissingDependencyError):
        build(open_checkpoint(TINY), load_recipe("fp16"), "tensorrt-rtx", tmp_path / "bundle")

    assert list(tmp_path.iterdir()) == []
