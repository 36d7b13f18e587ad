"""INT8: ranges found on images, integers in the graph, and a model that is still the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import CalibrationError, RecipeError
from edge_runtime.language.tokenizer import PromptTokens
from engines.build import build
from engines.calibration.images import open_images
from engines.evaluation.execution import open_bundle_tracer
from engines.families.synthetic import open_checkpoint
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe
from tests.engines.builds import WatchedCheckpoint, contents

PROMPT = PromptTokens((1, 60, 61), (40, 41, 42, 43))
TINY = "synthetic:tiny-llava"
TWO_GROUPS = {"group_parameters": 300_000}

pytestmark = pytest.mark.filterwarnings("ignore:.*settle with 500.*")


@pytest.fixture(scope="module")
def images():
    return open_images("rendered:2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, images):
    return build_int8(tmp_path_factory.mktemp("int8") / "bundle", images)


def build_int8(out, images, checkpoint=None, recipe="asymmetric-int8", **options):
    checkpoint = checkpoint or open_checkpoint(TINY)
    precisions = load_recipe(recipe)
    return build(checkpoint, precisions, "onnxruntime", out, images=images, **TWO_GROUPS, **options)


def nodes_of(bundle, name):
    [component] = [component for component in bundle.manifest.components if component.name == name]
    return onnx.load(bundle.file(component.files[0]), load_external_data=False).graph.node


def recipe_of(path, **kinds):
    """A recipe at ``path``: float16 but for these kinds."""
    names = ("vision_encoder", "connector", "embedding", "decoder", "lm_head")
    path.write_text("components:\n" + "".join(f"  {name}: {kinds.get(name, 'float16')}\n" for name in names))
    return str(path)


def everything_int8(path, method="max"):
    """A recipe with the vision encoder in 8 bits too, whose matrices have biases."""
    kinds = ("vision_encoder", "connector", "decoder", "lm_head")
    return recipe_of(path, **dict.fromkeys(kinds, f"{{dtype: int8, method: {method}}}"))


def feed_forward_int8(path, method="max"):
    """A recipe whose vision encoder keeps its attention, its norms and its patches."""
    return recipe_of(
        path, vision_encoder=f'{{dtype: float16, except: {{"*.mlp.*": {{dtype: int8, method: {method}}}}}}}'
    )


def tracing(bundle):
    """The features and logits that a bundle makes of one image."""
    pixels = np.random.default_rng(5).normal(size=(1, 3, 56, 56)).astype(np.float32)
    with open_bundle_tracer(bundle, PROMPT) as trace:
        return trace(pixels, range(20))


def test_a_bundle_says_what_is_int8_and_what_it_was_calibrated_on(bundle, images):
    manifest = load_bundle(bundle.path, verify_hashes=True).manifest

    assert {(c.role, c.precision, c.method) for c in manifest.components if c.precision != "float16"} == {
        ("decoder", "int8", "entropy")
    }
    assert manifest.hashes.calibration == images.sha256


def test_nothing_that_only_building_needed_is_left(bundle):
    names = {entry.path for entry in bundle.manifest.files} | {"bundle.json"}

    assert {path.name for path in bundle.path.iterdir()} == names


def test_every_product_of_a_layer_is_one_of_integers(bundle):
    found = Counter(node.op_type for node in nodes_of(bundle, "decoder.00"))

    assert found["MatMulIntegerToFloat"] == found["QuantizeLinear"] == 4 * 2  # qkv, o, gate and up, down
    assert found["MatMul"] == found["DequantizeLinear"] == 0


def test_twin_ranges_are_two_products_of_one_weight_behind_every_gelu(tmp_path, images):
    bundle = build_int8(tmp_path / "bundle", images, recipe=feed_forward_int8(tmp_path / "recipe.yaml", "twin-max"))

    nodes = nodes_of(bundle, "vision_encoder")
    products = Counter(node.input[1] for node in nodes if node.op_type == "MatMulIntegerToFloat")
    assert set(products.values()) == {1, 2}
    assert {name.rpartition(".mlp.")[2] for name, count in products.items() if count == 2} == {"fc2.weight"}
    model = onnx.load(bundle.file(bundle.manifest.components[0].files[0]), load_external_data=False)
    scales = {
        t.name: onnx.numpy_helper.to_array(t).item() for t in model.graph.initializer if t.name.endswith(".scale")
    }
    below = [scales[f"{node.output[0]}.scale"] for node in nodes if node.op_type == "Min"]
    above = [scales[f"{node.output[0]}.scale"] for node in nodes if node.op_type == "Max"]
    assert below
    assert max(below) < min(above) / 4  # a GELU never goes below -0.17


def test_an_int8_decoder_is_planned_at_half_of_a_float16_one():
    checkpoint = open_checkpoint("synthetic:llava-1.5-7b")  # of a tiny one, the rotary tables are a sixth
    int8, wide = (
        plan_bundle(checkpoint, load_recipe(recipe), "onnxruntime").manifest.decoder_groups[0].size_bytes
        for recipe in ("asymmetric-int8", "fp16")
    )

    assert int8 == pytest.approx(wide / 2, rel=0.02)


def check_still_the_same(directory, images, recipe):
    """Fails where a recipe with INT8 makes another model of float16's, or the very same."""
    rounded = tracing(build_int8(directory / "int8", images, recipe=recipe))
    plain = tracing(build_int8(directory / "float16", None, recipe="fp16"))
    for found, expected in ((rounded.logits, plain.logits), (rounded.features, plain.features)):
        assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)
    assert not np.array_equal(rounded.logits, plain.logits)


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        (everything_int8, "max"),
        (feed_forward_int8, "max"),
        (feed_forward_int8, "smooth-max"),
        (everything_int8, "twin-max"),
    ],
)
def test_an_int8_model_is_still_the_same_model(tmp_path, images, recipe, method):
    check_still_the_same(tmp_path, images, recipe(tmp_path / "recipe.yaml", method))


def test_a_recipe_can_keep_attention_and_round_the_feed_forward_alone(tmp_path, images):
    bundle = build_int8(tmp_path / "bundle", images, recipe=feed_forward_int8(tmp_path / "recipe.yaml"))

    products = [node for node in nodes_of(bundle, "vision_encoder") if "MatMul" in node.op_type]
    kept = [node.input[1] for node in products if node.op_type == "MatMul"]
    rounded = [node.input[1] for node in products if node.op_type == "MatMulIntegerToFloat"]
    assert rounded
    assert all(".mlp." in name for name in rounded)
    assert len(kept) == len(rounded) + 1  # qkv and out_proj for fc1 and fc2, and the patches
    [encoder] = [c for c in bundle.manifest.components if c.role == "vision_encoder"]
    assert (encoder.precision, encoder.method) == ("int8", "mixed")
    assert encoder.float16_bytes > 0


def test_an_interrupted_build_goes_on_with_the_ranges_that_it_would_have_had(tmp_path, images, bundle):
    late = WatchedCheckpoint(interrupt_at="language_model.model.layers.3.mlp.up_proj.weight")
    with pytest.raises(KeyboardInterrupt):
        build_int8(tmp_path / "bundle", images, late)

    resumed = WatchedCheckpoint()
    build_int8(tmp_path / "bundle", images, resumed)

    assert not any("vision_tower" in name or "layers.0." in name for name in resumed.read)
    assert contents(tmp_path / "bundle") == contents(bundle.path)


def test_ranges_from_another_machine_spare_the_images(tmp_path, images, bundle):
    cache = tmp_path / "ranges"
    build_int8(tmp_path / "first", images, calibration_cache=cache)
    unread = replace(images, _read=lambda: pytest.fail("an image was read"))

    build_int8(tmp_path / "second", unread, calibration_cache=cache)

    assert contents(tmp_path / "second") == contents(bundle.path)


def test_ranges_of_other_images_are_refused(tmp_path, images):
    cache = tmp_path / "ranges"
    build_int8(tmp_path / "first", images, calibration_cache=cache)

    with pytest.raises(CalibrationError, match="another set of images"):
        build_int8(tmp_path / "second", open_images("rendered:1"), calibration_cache=cache)


@pytest.mark.parametrize(
    ("kind", "entry", "found"),
    [
        ("embedding", "{dtype: int8, method: entropy}", "embedding is one table"),
        ("decoder", "{dtype: int8, method: rtn}", "expected one of entropy, percentile, mse, max"),
        ("decoder", "{dtype: int8, method: entropy, block_size: 128}", "expected float16"),
    ],
)
def test_int8_that_cannot_be_is_refused(tmp_path, kind, entry, found):
    kinds = dict.fromkeys(("vision_encoder", "connector", "embedding", "decoder", "lm_head"), "float16")
    path = tmp_path / "odd.yaml"
    path.write_text("components:\n" + "".join(f"  {k}: {v}\n" for k, v in {**kinds, kind: entry}.items()))

    with pytest.raises(RecipeError, match=found):
        load_recipe(str(path))


@pytest.mark.parametrize(("recipe", "warns"), [("asymmetric-int8", True), ("asymmetric-int4-gptq", False)])
def test_few_images_are_warned_of_where_a_build_finds_ranges(tmp_path, caplog, images, recipe, warns):
    build_int8(tmp_path / "bundle", images, recipe=recipe)

    assert ("settle with 500" in caplog.text) == warns
