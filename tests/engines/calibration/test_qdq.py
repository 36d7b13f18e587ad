"""Between a cache's scales and explicit nodes: nothing is lost either way, and the nodes do round."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import checker, helper, numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import CalibrationError
from engines.calibration.cache import scales_from_text, text_from_scales
from engines.calibration.overflow import float32_nodes
from engines.onnx.float32 import keep_float32
from engines.onnx.qdq import insert_qdq
from tests.engines.calibration.graphs import save, two_layers
from tests.engines.calibration.qdq_scales import scales_from_qdq

X = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
SCALES = {"x": 0.02, "bent": 0.05}

scales = st.floats(2.0**-100, 2.0**100, width=32)
float16_scales = st.floats(2.0**-14, 2.0**15, width=16)


def evaluate(model, path, x=X):
    engine = OnnxRuntimeBackend().load(save(model, path))
    [y] = engine.evaluate({"x": x}).values()
    engine.close()
    return y


def rounded(values, scale):
    return np.clip(np.rint(values / np.float32(scale)), -128, 127) * np.float32(scale)


@given(scales, scales)
def test_a_caches_scales_survive_as_nodes(x, bent):
    cache = text_from_scales({"x": x, "bent": bent}, "10.3.0")

    back = scales_from_qdq(insert_qdq(two_layers(), scales_from_text(cache)))

    assert text_from_scales(back, "10.3.0") == cache


@given(float16_scales, float16_scales)
def test_scales_that_float16_holds_survive_in_a_float16_graph(x, bent):
    model = insert_qdq(two_layers("float16"), {"x": x, "bent": bent})

    assert scales_from_qdq(model) == {"x": x, "bent": bent}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_graph_is_sound(dtype):
    checker.check_model(insert_qdq(two_layers(dtype), SCALES), full_check=True)


def test_activations_are_rounded_where_they_meet_a_weight(tmp_path):
    found = evaluate(insert_qdq(two_layers(), SCALES), tmp_path / "a.onnx")

    weights = {t.name: numpy_helper.to_array(t) for t in two_layers().graph.initializer}
    bent = np.maximum(rounded(X, SCALES["x"]) @ weights["first.weight"], 0)
    expected = rounded(bent, SCALES["bent"]) @ weights["second.weight"] + weights["second.bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_other_readers_of_an_activation_get_it_as_it_is(tmp_path):
    model = two_layers()
    model.graph.node.append(helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("sum", 1, ()))
    inserted = insert_qdq(model, SCALES)

    [reader] = [node for node in inserted.graph.node if node.name == "sum"]
    assert reader.input[0] == "x"


def test_two_activations_that_meet_are_rounded_where_their_product_is_named_so():
    for name, rounds in (("a.products.scores", True), ("scores", False)):
        model = two_layers()
        model.graph.node.append(helper.make_node("Transpose", ["wide"], ["columns"], name="turn", perm=(0, 2, 1)))
        model.graph.node.append(helper.make_node("MatMul", ["wide", "columns"], [name], name="meet"))
        operators = [node.op_type for node in insert_qdq(model, {"wide": 0.1, "columns": 0.1}).graph.node]

        assert operators.count("QuantizeLinear") == (2 if rounds else 0)


def test_an_activation_that_meets_two_weights_is_rounded_once():
    model = two_layers()
    model.graph.node.insert(1, helper.make_node("MatMul", ["x", "first.weight"], ["again"], name="again"))
    nodes = [node.op_type for node in insert_qdq(model, {"x": 0.1}).graph.node]

    assert nodes.count("QuantizeLinear") == 1


def test_nodes_that_are_named_stay_in_floating_point():
    assert insert_qdq(two_layers(), SCALES, but=["first", "second"]) == two_layers()
    assert scales_from_qdq(insert_qdq(two_layers(), SCALES, but=["first"])) == pytest.approx({"bent": 0.05})


def test_where_float16_overflows_the_rest_is_int8(tmp_path):
    model = two_layers("float16", gain=1e4)
    kept = float32_nodes(model, {"wide": 1e5, "bent": 1e5})
    mended = keep_float32(insert_qdq(model, {"x": 0.02, "bent": 800.0}, but=kept[1:]), kept)

    checker.check_model(mended, full_check=True)
    assert scales_from_qdq(mended) == pytest.approx({"x": 0.02}, rel=1e-3)
    found = evaluate(mended, tmp_path / "a.onnx", X.astype(np.float16))
    expected = evaluate(insert_qdq(two_layers(gain=1e4), {"x": 0.02}), tmp_path / "b.onnx")
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_scales_of_layers_that_stay_in_floating_point_are_left_out():
    assert scales_from_qdq(insert_qdq(two_layers(), {**SCALES, "wide": 0.3, "y": 0.4})) == pytest.approx(SCALES)


def test_without_scales_nothing_changes():
    assert insert_qdq(two_layers(), {}) == two_layers()
    assert scales_from_qdq(two_layers()) == {}


def test_a_scale_too_small_for_float16_becomes_its_smallest_number():
    [scale] = scales_from_qdq(insert_qdq(two_layers("float16"), {"x": 1e-12})).values()

    assert scale == np.finfo(np.float16).smallest_subnormal


def test_a_scale_too_large_for_float16_is_refused():
    with pytest.raises(CalibrationError, match=r"the scale 1000000\.0 of x exceeds float16"):
        insert_qdq(two_layers("float16"), {"x": 1e6})


def test_scales_of_another_graph_are_refused():
    with pytest.raises(CalibrationError, match="no tensor 'other'"):
        insert_qdq(two_layers(), {"other": 0.1})


def test_a_zero_point_cannot_be_put_into_a_cache():
    model = insert_qdq(two_layers(), SCALES)
    for tensor in model.graph.initializer:
        if tensor.name == "int8.zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), tensor.name))

    with pytest.raises(CalibrationError, match="zero point 3"):
        scales_from_qdq(model)


def test_a_scale_a_channel_cannot_be_put_into_a_cache():
    model = insert_qdq(two_layers(), SCALES)
    for tensor in model.graph.initializer:
        if tensor.name == "x.scale":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, 0.1, np.float32), tensor.name))

    with pytest.raises(CalibrationError, match="one constant scale a tensor"):
        scales_from_qdq(model)
