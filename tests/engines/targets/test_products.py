"""What attention multiplies between its matrices: kept by default, and integers where a recipe asks for it by name."""

import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from engines.calibration.images import open_images
from engines.families.synthetic import open_checkpoint
from engines.layers.attention import SelfAttention
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.layers.weights import Weights
from engines.onnx.builder import Graph
from engines.onnx.qdq import insert_qdq
from engines.onnx.tensors import load_graph, tensors_in_products
from engines.planning.plan import plan_bundle
from engines.quantize.activation_ranges import RANGE_METHODS, scale_of_range, twin_ranges
from engines.quantize.histogram import Histogram
from engines.quantize.recipe import FLOAT16, Precision, load_recipe
from tests.engines.builds import WatchedCheckpoint
from tests.engines.targets.test_int8 import build_int8, check_still_the_same, everything_int8, nodes_of, recipe_of

HEADS, WIDTH, ROWS = 2, 16, 40
ATTENTION = "layers.0.self_attn"
QKV = np.random.default_rng(3).normal(size=(1, ROWS, 3 * WIDTH)).astype(np.float32) * 3
LOWERINGS = {"float32": OnnxRuntimeLowering, "float16": TensorRTLowering}

pytestmark = pytest.mark.filterwarnings("ignore:.*settle with 500.*")


@pytest.fixture(scope="module")
def images():
    return open_images("rendered:2")


def products_int8(path, method="max"):
    """A recipe whose vision encoder is float16, but for what attention multiplies."""
    return recipe_of(
        path, vision_encoder=f'{{dtype: float16, except: {{"*.products": {{dtype: int8, method: {method}}}}}}}'
    )


def emit(path, dtype, method):
    """Attention alone as a graph, its products rounded by a method; None: kept."""
    asked = {"*.products": Precision("int8", method, None)} if method else {}
    with Graph(path) as graph:
        weights = Weights({}, replace(FLOAT16, exceptions=tuple(asked.items())))
        qkv = graph.input("qkv", dtype, (1, ROWS, 3 * WIDTH))
        context = SelfAttention(ATTENTION, HEADS, WIDTH).emit(graph, LOWERINGS[dtype](), weights, qkv)
        graph.output("context", dtype, (1, ROWS, WIDTH), context)
        graph.save()
    return path


def evaluate(path, **inputs):
    engine = OnnxRuntimeBackend(threads=1).load(path)
    outputs = engine.evaluate(inputs)
    engine.close()
    return outputs


def heads_of(rows):
    return rows.reshape(ROWS, HEADS, WIDTH // HEADS).transpose(1, 0, 2)  # (H, T, d)


def attention(qkv, rounded=lambda values, _: values):
    """By numpy; ``rounded`` is told which operand it rounds."""
    query, key, value = (heads_of(part) for part in np.split(qkv[0].astype(np.float64), 3, axis=1))
    query = query * (WIDTH // HEADS) ** -0.5
    scores = rounded(query, "query") @ rounded(key, "key").transpose(0, 2, 1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    context = rounded(shares, "shares") @ rounded(value, "value")  # (H, T, d)
    return context.transpose(1, 0, 2).reshape(1, ROWS, WIDTH)


@pytest.mark.parametrize("dtype", sorted(LOWERINGS))
@pytest.mark.parametrize("method", [None, "max", "twin-max"])
def test_attention_is_the_same_whole_in_products_and_with_its_softmax_taken_apart(tmp_path, dtype, method):
    found = evaluate(emit(tmp_path / "a.onnx", dtype, method), qkv=QKV.astype(dtype))["context"]

    np.testing.assert_allclose(found, attention(QKV), atol=1e-5 if dtype == "float32" else 0.03)


@pytest.mark.parametrize("method", ["max", "twin-max"])
def test_all_four_operands_are_rounded(tmp_path, method):
    path = emit(tmp_path / "a.onnx", "float32", method)
    scales = dict.fromkeys(tensors_in_products(load_graph(path)), 0.05)
    scales |= {name: 0.0005 for name in scales if name.endswith(".below")}

    def rounded(values, operand):
        def to(scale, array):
            return np.clip(np.rint(array / scale), -128, 127) * scale

        if operand == "shares" and method == "twin-max":
            return to(0.0005, np.where(values < 1 / 16, values, 0)) + to(0.05, np.where(values < 1 / 16, 0, values))
        return to(0.05, values)

    onnx.save(insert_qdq(load_graph(path), scales), tmp_path / "b.onnx")
    found = evaluate(tmp_path / "b.onnx", qkv=QKV)["context"]

    np.testing.assert_allclose(found, attention(QKV, rounded), atol=0.01)  # a tie may go either way
    assert np.abs(found - attention(QKV)).max() > 1


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.sampled_from(["max", "percentile"]))
def test_a_share_is_kept_to_half_a_step_of_its_own_side_and_rounded_once(values, method):
    values = np.array(values, np.float32)
    sides = [np.where(values < 1 / 16, values, 0), np.where(values < 1 / 16, 0, values)]
    histograms = [Histogram(), Histogram()]
    for histogram, side in zip(histograms, sides, strict=True):
        histogram.add(side)

    ranges, _ = twin_ranges(*histograms, RANGE_METHODS[method])

    for side, largest in zip(sides, ranges, strict=True):
        scale = scale_of_range(largest)
        once = np.clip(np.rint(side / scale), -127, 127) * scale
        assert np.abs(once - side).max() <= 0.501 * scale
        np.testing.assert_array_equal(np.clip(np.rint(once / scale), -127, 127) * scale, once)


def test_recipes_that_round_all_matrices_keep_the_products(tmp_path, images):
    bundle = build_int8(tmp_path / "bundle", images, recipe=everything_int8(tmp_path / "recipe.yaml"))

    found = [node.op_type for node in nodes_of(bundle, "vision_encoder")]
    assert "MultiHeadAttention" in found
    assert not {"Softmax", "MatMul"} & set(found)


@pytest.mark.parametrize(("method", "a_layer"), [("max", 2), ("twin-max", 3)])
def test_products_are_of_integers_as_numpy_computes_them(tmp_path, images, method, a_layer):
    bundle = build_int8(tmp_path / "bundle", images, recipe=products_int8(tmp_path / "recipe.yaml", method))

    path = bundle.path / "vision_encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".scale")}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == a_layer * 2
    pairs = {node.output[0]: [codes.removesuffix(".quantized") for codes in node.input[:2]] for node in products}
    names = {*pairs, *(name for pair in pairs.values() for name in pair)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    onnx.save(model, bundle.path / "observed.onnx")
    pixels = np.random.default_rng(5).normal(size=(1, 3, 56, 56)).astype(np.float32)
    seen = evaluate(bundle.path / "observed.onnx", pixel_values=pixels)
    for name, pair in pairs.items():
        left, right = (np.clip(np.rint(seen[x] / scales[f"{x}.scale"]), -128, 127) * scales[f"{x}.scale"] for x in pair)
        np.testing.assert_allclose(seen[name], left @ right, rtol=1e-4, atol=1e-5)


def test_a_bundle_says_that_its_products_are_rounded_and_plans_their_room(tmp_path, images):
    recipe = products_int8(tmp_path / "recipe.yaml", "twin-max")
    encoder = build_int8(tmp_path / "bundle", images, recipe=recipe).manifest.component("vision_encoder")
    assert (encoder.precision, encoder.products) == ("float16", "twin-max")

    checkpoint = open_checkpoint("synthetic:llava-1.5-7b")  # of a tiny one, the decoder takes more
    rounded, plain = (
        {
            item.name: item.planned_bytes
            for item in plan_bundle(checkpoint, load_recipe(r), "onnxruntime").memory_plan.items
        }
        for r in (recipe, "fp16")
    )
    assert rounded["activations"] - plain["activations"] == pytest.approx(135e6, rel=0.2)  # as measured
    assert rounded["vision_encoder"] == plain["vision_encoder"]


@pytest.mark.parametrize("method", ["max", "twin-max", "twin-entropy"])
def test_a_model_whose_products_are_rounded_is_still_the_same_model(tmp_path, images, method):
    check_still_the_same(tmp_path, images, products_int8(tmp_path / "recipe.yaml", method))


def test_one_layers_products_may_be_kept(tmp_path, images):
    some = '{dtype: float16, except: {"*.0.*products": float16, "*.products": {dtype: int8, method: max}}}'
    bundle = build_int8(tmp_path / "bundle", images, recipe=recipe_of(tmp_path / "recipe.yaml", vision_encoder=some))

    found = [node.op_type for node in nodes_of(bundle, "vision_encoder")]
    assert (found.count("MultiHeadAttention"), found.count("MatMulIntegerToFloat")) == (1, 2)


class EvenCheckpoint(WatchedCheckpoint):
    """The tiny checkpoint, whose vision encoder asks for nothing: its attention takes 1/17 of each row, which is below
    1/16."""

    def tensor(self, name):
        tensor = super().tensor(name)
        return np.zeros_like(tensor) if "vision" in name and ".q_proj." in name else tensor


def test_calibration_says_where_there_are_two_peaks(tmp_path, images, caplog):
    caplog.set_level(logging.INFO, "engines.calibration.scales")
    twins = '{dtype: int8, method: twin-mse, except: {"*.products": {dtype: int8, method: twin-mse}}}'
    recipe = recipe_of(tmp_path / "recipe.yaml", vision_encoder=twins)

    found = {}
    for name, checkpoint in (("tiny", None), ("even", EvenCheckpoint())):
        caplog.clear()
        build_int8(tmp_path / name, images, checkpoint, recipe)
        said = [record.getMessage().partition(":")[0] for record in caplog.records if "peaks" in record.msg]
        found[name] = {line.replace("vision_tower.vision_model.encoder.", "") for line in said}

    gelus = {f"two peaks at layers.{layer}.mlp.fc2" for layer in range(2)}
    assert found == {
        "tiny": gelus | {f"two peaks at layers.{layer}.self_attn.products" for layer in range(2)},
        "even": gelus | {f"no two peaks at layers.{layer}.self_attn.products" for layer in range(2)},
    }


def test_sides_of_what_has_one_peak_get_one_scale(tmp_path, images):
    recipe = products_int8(tmp_path / "recipe.yaml", "twin-mse")
    bundle = build_int8(tmp_path / "bundle", images, EvenCheckpoint(), recipe)

    model = onnx.load(bundle.path / "vision_encoder.onnx", load_external_data=False)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".scale")}
    below = {name: scale for name, scale in scales.items() if name.endswith(".below.scale")}
    assert below
    for name, scale in below.items():
        assert scale == scales[name.replace(".below.", ".above.")] == pytest.approx(1 / 17 / 127, rel=0.01)
