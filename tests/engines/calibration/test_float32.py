"""Float16 graphs computed wider: wholly, and where activations overflow; run with ONNX Runtime to see."""

import numpy as np
import pytest

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import CalibrationError
from engines.calibration.activation_runner import open_runner
from engines.calibration.images import open_images
from engines.calibration.observe import open_observed
from engines.calibration.overflow import find_overflow, float32_nodes, overflowing_tensors
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.onnx.float32 import float32_twin, keep_float32
from engines.onnx.tensors import activation_names, linear_inputs, load_graph
from tests.engines.calibration.graphs import (
    MODEL,
    PROMPT,
    TinyEmbedding,
    element_type,
    emit_parts,
    save,
    two_layers,
)

X = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
LOUD_X = X * 60


def evaluate(model, path, x):
    engine = OnnxRuntimeBackend().load(save(model, path))
    [y] = engine.evaluate({"x": x}).values()
    engine.close()
    return y


def loud(dtype="float16"):
    """Fed with ``LOUD_X``, all of it fits float16 but for ``wide`` and ``bent``."""
    return two_layers(dtype, gain=1000.0)


def peaks_of(model, path, x):
    save(model, path)
    with open_observed(path, peaks_of=activation_names(model)) as (engine, observation):
        observation.add(engine.evaluate({"x": x}))
    return observation.peaks


def test_a_twin_computes_in_float32_under_the_same_names(tmp_path):
    model = two_layers("float16")
    twin = float32_twin(model)

    assert (element_type(twin, "x"), element_type(twin, "y")) == ("FLOAT", "FLOAT")
    assert activation_names(twin) == activation_names(model)
    assert linear_inputs(twin) == linear_inputs(model)
    assert [node.name for node in twin.graph.node][-4:] == ["first", "bend", "second", "shift"]
    narrow = evaluate(model, tmp_path / "a.onnx", X.astype(np.float16))
    np.testing.assert_allclose(evaluate(twin, tmp_path / "b.onnx", X), narrow, atol=0.05)


def test_the_twin_of_a_float32_graph_is_itself():
    assert float32_twin(two_layers()) == two_layers()


def test_what_overflows_float16_is_seen_as_the_number_it_would_be(tmp_path):
    peaks = peaks_of(loud(), tmp_path / "a.onnx", LOUD_X)
    expected = peaks_of(loud("float32"), tmp_path / "b.onnx", LOUD_X)

    assert peaks["wide"] > 65504
    for name, peak in expected.items():
        assert peaks[name] == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_once_is_told_whatever_follows(tmp_path, value):
    broken, graph = X.copy(), save(two_layers(), tmp_path / "a.onnx")
    broken[0, 2, 3] = value
    with open_observed(graph, peaks_of=["x"]) as (engine, observation):
        for x in (X, broken, X):
            observation.add(engine.evaluate({"x": x}))

    assert observation.peaks["x"] == np.inf


def test_nodes_at_an_overflow_are_named(tmp_path):
    model = loud()
    peaks = peaks_of(model, tmp_path / "a.onnx", LOUD_X)

    assert set(overflowing_tensors(model, peaks)) == {"wide", "bent"}
    assert float32_nodes(model, peaks) == ("first", "bend", "second")


def test_without_an_overflow_nothing_is_named(tmp_path):
    model = two_layers("float16")

    assert float32_nodes(model, peaks_of(model, tmp_path / "a.onnx", X)) == ()


@pytest.mark.parametrize("peak", [65504.1, np.inf, np.nan])
def test_only_what_exceeds_float16_counts(peak):
    model = two_layers("float16")

    assert overflowing_tensors(model, {"wide": 65504.0, "bent": 3.0}) == {}
    assert list(overflowing_tensors(model, {"wide": peak})) == ["wide"]
    assert overflowing_tensors(two_layers("float32"), {"wide": peak}) == {}


def test_with_the_named_nodes_in_float32_nothing_overflows(tmp_path):
    model = loud()
    mended = keep_float32(model, float32_nodes(model, peaks_of(model, tmp_path / "a.onnx", LOUD_X)))

    assert overflowing_tensors(mended, peaks_of(mended, tmp_path / "b.onnx", LOUD_X)) == {}
    found, expected = (
        evaluate(graph, tmp_path / "c.onnx", LOUD_X.astype(dtype))
        for graph, dtype in ((mended, np.float16), (loud("float32"), np.float32))
    )
    np.testing.assert_allclose(found, expected, atol=0.005 * np.abs(expected).max())


def test_inputs_and_outputs_stay_float16_where_nodes_at_them_are_kept(tmp_path):
    model = two_layers("float16")
    kept = keep_float32(model, ["first", "bend", "second", "shift"])

    assert (element_type(kept, "x"), element_type(kept, "y")) == ("FLOAT16", "FLOAT16")
    exact = evaluate(two_layers("float32"), tmp_path / "a.onnx", X)
    narrow = evaluate(kept, tmp_path / "b.onnx", X.astype(np.float16))
    assert narrow.dtype == np.float16
    np.testing.assert_allclose(narrow, exact, atol=0.02)


def test_nothing_is_rounded_between_kept_nodes():
    kept = keep_float32(two_layers("float16"), ["first", "bend"])
    casts = [(node.input[0], node.output[0]) for node in kept.graph.node if node.op_type == "Cast"]

    assert casts == [("first.weight", "first.weight.float32"), ("x", "x.float32"), ("bent.float32", "bent")]


def test_keeping_nothing_changes_nothing():
    assert keep_float32(two_layers("float16"), []) == two_layers("float16")


def test_a_node_of_another_graph_is_refused():
    with pytest.raises(CalibrationError, match="no node 'third'"):
        keep_float32(two_layers("float16"), ["third"])


def test_an_overflow_between_components_is_refused():
    model = two_layers("float16")

    with pytest.raises(CalibrationError, match="y reaches 70000, and passes between components as float16"):
        float32_nodes(model, {"y": 7e4})


def test_nothing_overflows_in_a_quiet_model(tmp_path):
    with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
        found = [find_overflow(runner, graph) for graph in emit_parts(tmp_path, TensorRTLowering).values()]

    assert [(overflow.tensors, overflow.nodes) for overflow in found] == [({}, ())] * 5


def test_components_for_tensorrt_compute_on_the_way_what_those_for_onnx_runtime_do(tmp_path):
    logits = []
    for name, lowering in (("trt", TensorRTLowering), ("ort", OnnxRuntimeLowering)):
        (tmp_path / name).mkdir()
        parts = emit_parts(tmp_path / name, lowering)
        with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
            for graph in parts.values():
                peaks = runner.through(graph, peaks_of=["logits"] if graph == parts["lm_head"] else []).peaks
        logits.append(peaks["logits"])

    assert logits[0] == pytest.approx(logits[1], rel=1e-4)


def test_a_loud_layer_of_a_real_component_is_found(tmp_path):
    """The second layer's MLP grown until its activation exceeds float16, and the way back as much less."""
    parts = emit_parts(tmp_path, TensorRTLowering)
    with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
        for name in ("vision_encoder", "connector"):
            runner.through(parts[name])
        grow(parts["decoder.00"], "layers.1.mlp.gate_up_proj.weight", 3000.0)
        grow(parts["decoder.00"], "layers.1.mlp.down_proj.weight", 1 / 3000.0)
        found = find_overflow(runner, parts["decoder.00"])

    assert found.nodes
    assert all(name.startswith("layers.1/") for name in found.nodes)
    assert min(found.tensors.values()) > 65504


def test_there_is_more_to_be_found_out_where_the_walk_stays(tmp_path):
    parts = emit_parts(tmp_path, TensorRTLowering)
    with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
        before = runner.data_sha256
        found = find_overflow(runner, parts["vision_encoder"], tmp_path / "x.overflow", stay=True)
        assert find_overflow(runner, parts["vision_encoder"], tmp_path / "x.overflow", stay=True) == found
        assert runner.data_sha256 == before
        runner.through(parts["vision_encoder"])
        runner.through(parts["connector"])


def test_what_overflows_is_read_from_a_cache_that_is_fresh(tmp_path):
    graph = emit_parts(tmp_path, TensorRTLowering)["vision_encoder"]
    grow(graph, "layers.1.mlp.fc1.weight", 60000.0)
    grow(graph, "layers.1.mlp.fc2.weight", 1 / 60000.0)

    def find(images="rendered:2"):
        with open_runner(open_images(images), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
            return find_overflow(runner, graph, tmp_path / "vision_encoder.overflow")

    first = find()
    written = (tmp_path / "vision_encoder.overflow").stat().st_mtime_ns

    assert first.tensors
    assert find() == first
    assert (tmp_path / "vision_encoder.overflow").stat().st_mtime_ns == written
    with pytest.raises(CalibrationError, match="another set of images"):
        find("rendered:3")


def grow(graph, ending, factor):
    """Scale a weight of a graph in place, in the file beside it."""
    [tensor] = [t for t in load_graph(graph).graph.initializer if t.name.endswith(ending)]
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(
        graph.with_name(place["location"]), np.float16, "r+", int(place["offset"]), (int(place["length"]) // 2,)
    )
    data[:] = (data.astype(np.float32) * factor).astype(np.float16)
    data.flush()
