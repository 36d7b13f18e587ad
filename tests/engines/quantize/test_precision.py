"""Recipes: what comes with the builder, what a file may say, what is refused."""

import pytest

from edge_runtime.bundle.manifest import ROLES
from edge_runtime.errors import RecipeError
from engines.quantize.recipe import NF4, Precision, known_recipes, load_recipe

INT4 = Precision("int4", "rtn", 128)
FLOAT16 = Precision("float16", "cast", None)
SOUND = "components: {vision_encoder: float16, connector: float16, embedding: float16, lm_head: float16, decoder: %s}"


def test_the_shipped_recipes_differ_in_what_they_quantize():
    plans = {name: load_recipe(name).components for name in known_recipes()}

    assert {"fp16", "asymmetric-int4", "uniform-int4", "nf4"} <= set(plans)
    assert set(plans["fp16"].values()) == {FLOAT16}
    assert set(plans["uniform-int4"].values()) == {INT4}
    assert [kind for kind in ROLES if plans["asymmetric-int4"][kind] == INT4] == ["decoder"]
    for method in ("gptq", "awq", "awq-gptq"):
        assert plans[f"asymmetric-int4-{method}"] == {
            **plans["asymmetric-int4"],
            "decoder": Precision("int4", method, 128),
        }


def test_only_plans_that_look_at_activations_are_calibrated():
    calibrated = [name for name in known_recipes() if load_recipe(name).is_calibrated]

    assert calibrated == ["asymmetric-int4-awq", "asymmetric-int4-awq-gptq", "asymmetric-int4-gptq", "selective-int8"]


def test_exceptions_are_by_the_matrices_that_an_engine_has(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        SOUND % "{dtype: int4, block_size: 128, method: rtn, except: "
        '{"*.0.*.qkv_proj": float16, "*.down_proj": nf4, "*.0.*": {dtype: int4, block_size: 32, method: gptq}}}'
    )

    decoder = load_recipe(str(path)).components["decoder"]

    assert decoder.of("model.layers.1.self_attn.qkv_proj") == decoder
    assert decoder.of("model.layers.0.self_attn.qkv_proj") == FLOAT16
    assert decoder.of("model.layers.0.mlp.down_proj").dtype == "nf4"
    assert decoder.of("model.layers.0.mlp.gate_up_proj") == Precision("int4", "gptq", 32)
    assert decoder.of("model.layers.1.mlp.gate_up_proj") == decoder
    assert load_recipe(str(path)).is_calibrated


def test_some_matrices_of_a_component_may_be_int8(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(SOUND % '{dtype: float16, except: {"*.mlp.*": {dtype: int8, method: percentile}}}')

    plan = load_recipe(str(path))

    decoder = plan.components["decoder"]
    assert decoder.of("layers.0.mlp.down_proj") == decoder.int8 == Precision("int8", "percentile", None)
    assert decoder.of("layers.0.self_attn.o_proj").dtype == "float16"
    assert plan.has_int8
    assert not plan.is_calibrated


def test_what_attention_multiplies_is_rounded_only_where_a_pattern_ends_with_its_name(tmp_path):
    path = tmp_path / "recipe.yaml"
    int8 = "{dtype: int8, method: mse}"
    encoder = f'{{dtype: int8, method: mse, except: {{"*.0.*": {int8}, "*": {int8}, "*.1.*products": {int8}}}}}'
    path.write_text(SOUND.replace("vision_encoder: float16", f"vision_encoder: {encoder}") % "float16")

    encoder = load_recipe(str(path)).components["vision_encoder"]

    assert encoder.of_products("layers.0.self_attn.products") == FLOAT16
    assert encoder.of_products("layers.1.self_attn.products") == Precision("int8", "mse", None)
    assert encoder.of("layers.1.self_attn.qkv_proj") == Precision("int8", "mse", None)
    assert encoder.without_int8().of_products("layers.1.self_attn.products") == Precision("float16", "mse", None)


def test_int8_says_in_one_word_what_is_done_before_ranges_are_found(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(SOUND % "{dtype: int8, method: smooth-twin-mse}")

    plan = load_recipe(str(path))

    decoder = plan.components["decoder"]
    assert (decoder.range_method, decoder.is_smoothed, decoder.has_twin_ranges) == ("mse", True, True)
    assert plan.is_calibrated  # as weights are scaled by what calibration images show
    assert not Precision("int8", "mse", None).is_smoothed
    assert not Precision("int8", "mse", None).has_twin_ranges


def test_a_recipe_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SOUND % "{dtype: int4, block_size: 32, method: rtn}")

    plan = load_recipe(str(path))

    assert plan.recipe == "mine"
    assert plan.components["decoder"] == Precision("int4", "rtn", 32)


def test_another_text_has_another_hash(tmp_path):
    (tmp_path / "a.yaml").write_text(SOUND % "float16")
    (tmp_path / "b.yaml").write_text(SOUND % "{dtype: int4, block_size: 32, method: rtn}")

    assert load_recipe(str(tmp_path / "a.yaml")).sha256 != load_recipe(str(tmp_path / "b.yaml")).sha256


@pytest.mark.parametrize("name", ["int5", "", "../recipes", "a\0b"])
def test_an_unknown_recipe_is_refused_with_the_known_ones(name):
    with pytest.raises(RecipeError, match=r"asymmetric-int4, .*fp16, language-int4, nf4, selective-int8, uniform-int4"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names the components none"),
        ("[1, 2]", "names the components none"),
        ("components: {decoder: float16}", "names the components decoder"),
        ("components: {a: [}", "is not YAML"),
        (SOUND % "int4", "expected float16, nf4, "),
        (SOUND % "{dtype: int4, block_size: 100, method: rtn}", "block_size 100"),
        (SOUND % "{dtype: int4, block_size: true, method: rtn}", "block_size True"),
        (SOUND % "{dtype: int4, block_size: 32, method: magic}", "method 'magic'"),
        (SOUND % "{dtype: nf4, block_size: 64}", "expected float16, nf4"),
        (SOUND % "{dtype: float16, except: [a]}", r"has except: \['a'\]"),
        (SOUND % "{dtype: float16, except: {a: {dtype: float16, except: {b: nf4}}}}", "decoder: a is"),
        (SOUND.replace("embedding: float16", "embedding: nf4") % "float16", "an embedding is one table"),
        (
            SOUND.replace("embedding: float16", "embedding: {dtype: int4, block_size: 32, method: gptq}") % "float16",
            "method 'gptq'",
        ),
        (SOUND % "{dtype: int8, method: smoothed}", "method 'smoothed'"),
        (
            SOUND % "{dtype: int8, method: max, except: {a: {dtype: int8, method: mse}}}",
            "int8 by max and mse; expected one method in a component",
        ),
        (SOUND % '{dtype: float16, except: {"*.products": {dtype: int8, method: max}}}', "in the vision encoder alone"),
        (
            SOUND.replace("vision_encoder: float16", 'vision_encoder: {dtype: float16, except: {"*.products": nf4}}')
            % "float16",
            r"\*.products is 'nf4'; what attention multiplies is no weight: expected float16 or int8",
        ),
        (SOUND % "!!python/object/apply:os.getcwd []", "is not YAML"),
        ("#" * 100_000, "larger than"),
    ],
)
def test_a_recipe_that_says_too_little_or_the_impossible_is_refused(text, complaint, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    with pytest.raises(RecipeError, match=complaint):
        load_recipe(str(path))


def test_bytes_of_a_matrix_follow_its_precision():
    assert NF4.matrix_bytes(64, 256) == 64 * 256 // 2 + 256 + 4 + 4  # 4-bit codes, 8-bit scales, their range and mean
    assert FLOAT16.matrix_bytes(3, 256) == 3 * 256 * 2
    assert INT4.matrix_bytes(3, 256) == 3 * (128 + 2 * 2)
    assert INT4.matrix_bytes(3, 192) == 3 * (96 + 3 * 2)  # 128 does not divide 192, 64 does
