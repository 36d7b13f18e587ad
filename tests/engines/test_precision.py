"""Recipes: what comes with the builder, what a file may say, what is refused."""

import pytest

from edge_runtime.bundle import COMPONENT_KINDS
from edge_runtime.errors import RecipeError
from engines.precision import Precision, known_recipes, load_recipe

INT4 = Precision("int4", "rtn", 128)
FLOAT16 = Precision("float16", "cast", None)
SOUND = "components: {vision_encoder: float16, connector: float16, embedding: float16, lm_head: float16, decoder: %s}"


def test_the_shipped_recipes_differ_in_what_they_quantize():
    plans = {name: load_recipe(name).components for name in known_recipes()}

    assert set(plans) == {"fp16", "asymmetric-int4", "uniform-int4"}
    assert set(plans["fp16"].values()) == {FLOAT16}
    assert set(plans["uniform-int4"].values()) == {INT4}
    assert [kind for kind in COMPONENT_KINDS if plans["asymmetric-int4"][kind] == INT4] == ["decoder"]


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
    with pytest.raises(RecipeError, match="asymmetric-int4, fp16, uniform-int4"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names the components none"),
        ("[1, 2]", "names the components none"),
        ("components: {decoder: float16}", "names the components decoder"),
        ("components: {a: [}", "is not YAML"),
        (SOUND % "int4", "expected float16, or"),
        (SOUND % "{dtype: int4, block_size: 100, method: rtn}", "block_size 100"),
        (SOUND % "{dtype: int4, block_size: true, method: rtn}", "block_size True"),
        (SOUND % "{dtype: int4, block_size: 32, method: magic}", "method 'magic'"),
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
    assert FLOAT16.matrix_bytes(3, 256) == 3 * 256 * 2
    assert INT4.matrix_bytes(3, 256) == 3 * (128 + 2 * 2)
    assert INT4.matrix_bytes(3, 192) == 3 * (96 + 3 * 2)  # 128 does not divide 192, 64 does
