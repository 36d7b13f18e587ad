"""Classifiers in INT8: BatchNorm is gone, the answers stay, and a scale a channel is what keeps them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.errors import BuildError, CheckpointError
from edge_runtime.vision.image_processors import squeeze
from engines.calibration.classifier import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PIXEL_SCALES,
    PixelScale,
    find_pixel_scale,
    quantize_classifier,
)
from engines.calibration.images import open_images
from engines.cli import main
from engines.onnx.batch_norm import fold_batch_norms
from engines.onnx.standard_form import standard_form
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED
from engines.reference.training.classification import CLASSIFIER, labelled_scenes
from tests.engines.calibration.qdq_scales import scales_from_qdq

IMAGES = list(open_images("rendered:12"))
FRAMES, UNSEEN = IMAGES[:8], IMAGES[8:]
SIZE, WIDTH, CLASSES = 32, 12, 5
IMAGENET = PIXEL_SCALES["imagenet"]
SPEC = PixelSpec(SIZE, SIZE, 2, 1 / 255, IMAGENET_MEAN, IMAGENET_STD)


def classifier(spread=1.0, training_mode=0, input_shape=(1, 3, SIZE, SIZE), tail=False, opset=17, ir_version=9):
    """Three convolutions with BatchNorm, the last around a residual, a pool and a head; channels differ by spread."""
    rng = np.random.default_rng(0)
    weights = {"head.w": rng.normal(size=(CLASSES, WIDTH)), "head.b": rng.normal(size=CLASSES)}
    nodes = []
    for index, (name, read) in enumerate((("one", "x"), ("two", "one.out"), ("three", "two.out"))):
        channels = 3 if name == "one" else WIDTH
        gains = spread ** rng.uniform(-1, 1, size=WIDTH)
        kernel = rng.normal(size=(WIDTH, channels, 3, 3)) / np.sqrt(channels * 9)
        weights[f"{name}.w"] = kernel * gains[:, None, None, None]
        norms = {"scale": rng.uniform(0.5, 2, WIDTH), "bias": rng.normal(size=WIDTH) / 4}
        norms |= {"mean": rng.normal(size=WIDTH) / 4 * gains, "var": rng.uniform(0.5, 2, WIDTH) * gains**2}
        weights |= {f"{name}.{part}": values for part, values in norms.items()}
        inputs = [read, f"{name}.w"]
        if index:  # the first has no bias
            weights[f"{name}.b"] = rng.normal(size=WIDTH) / 4
            inputs.append(f"{name}.b")
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.conv"], pads=[1] * 4, name=name))
        read = [f"{name}.conv", *(f"{name}.{part}" for part in ("scale", "bias", "mean", "var"))]
        mode = {"training_mode": training_mode} if opset > 13 else {}
        nodes.append(helper.make_node("BatchNormalization", read, [f"{name}.norm"], **mode))
        if name == "three":
            nodes.append(helper.make_node("Add", ["three.norm", "two.out"], ["three.sum"]))
        nodes.append(helper.make_node("Relu", ["three.sum" if name == "three" else f"{name}.norm"], [f"{name}.out"]))
    pooled = "three.out"
    if tail:  # a norm with no convolution before it
        read = ["three.out", *(f"two.{part}" for part in ("scale", "bias", "mean", "var"))]
        nodes.append(helper.make_node("BatchNormalization", read, ["tail"]))
        pooled = "tail"
    nodes += [
        helper.make_node("GlobalAveragePool", [pooled], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    if ir_version < 4:  # weights are inputs too
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.fixture
def source(tmp_path):
    def write(**options):
        path = tmp_path / "classifier.onnx"
        path.write_bytes(classifier(**options).SerializeToString())
        return path

    return write


def logits(model, path):
    """Of frames that nothing was calibrated on."""
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    engine = OnnxRuntimeBackend().load(path)
    found = np.concatenate([engine.evaluate({"x": squeeze(frame, SPEC)})["logits"] for frame in UNSEEN])
    engine.close()
    return found


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("tail", [False, True])
def test_folding_leaves_the_function_and_no_batch_norm(tail, tmp_path):
    model = classifier(spread=5, tail=tail)

    folded = fold_batch_norms(model)

    assert "BatchNormalization" not in operators(folded)
    assert operators(folded).count("Mul") == tail
    np.testing.assert_allclose(
        logits(folded, tmp_path / "f.onnx"), logits(model, tmp_path / "m.onnx"), rtol=1e-4, atol=1e-4
    )


def test_statistics_that_an_exporter_wrote_once_and_passed_on_are_folded(tmp_path):
    model = classifier()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    passed = helper.make_node("Identity", [norm.input[1]], ["same.scale"])
    made = helper.make_node("Constant", [], ["made.bias"], value=weights[norm.input[2]])
    norm.input[1:3] = ["same.scale", "made.bias"]
    model.graph.node.insert(0, passed)
    model.graph.node.insert(0, made)

    folded = fold_batch_norms(model)

    assert not {"BatchNormalization", "Identity", "Constant"} & set(operators(folded))
    np.testing.assert_allclose(
        logits(folded, tmp_path / "f.onnx"), logits(model, tmp_path / "m.onnx"), rtol=1e-4, atol=1e-4
    )


def test_int8_answers_as_float32_does(source, tmp_path):
    found = quantize_classifier(source(spread=5), FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    expected = logits(classifier(spread=5), tmp_path / "m.onnx")
    ours = logits(found.path.read_bytes(), tmp_path / "i.onnx")
    assert np.linalg.norm(ours - expected) < 0.05 * np.linalg.norm(expected)
    assert found.int8_layers == 3
    assert found.float32_layers == {"head": "the head"}
    assert "BatchNormalization" not in operators(onnx.load(found.path))
    assert found.size_bytes == found.path.stat().st_size


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (9, 4), (11, 6), (12, 7), (13, 7), (21, 10)])
def test_a_graph_of_any_opset_becomes_int8(source, tmp_path, opset, ir_version):
    path = source(opset=opset, ir_version=ir_version)

    found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    expected, ours = (
        logits(path.read_bytes(), tmp_path / "m.onnx"),
        logits(found.path.read_bytes(), tmp_path / "i.onnx"),
    )
    assert np.linalg.norm(ours - expected) < 0.05 * np.linalg.norm(expected)
    assert found.int8_layers == 3


def in_float16(model):
    """The model with every tensor in float16, its input and output too."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_a_graph_in_float16_becomes_int8_and_keeps_the_types_of_its_ends(source, tmp_path):
    path = source()
    path.write_bytes(in_float16(classifier()).SerializeToString())

    found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    engine = OnnxRuntimeBackend().load(found.path)
    frames = [squeeze(frame, SPEC).astype(np.float16) for frame in UNSEEN]
    ours = np.concatenate([engine.evaluate({"x": frame})["logits"] for frame in frames])
    engine.close()
    expected = logits(classifier(), tmp_path / "m.onnx")
    assert ours.dtype == np.float16
    assert np.linalg.norm(ours - expected) < 0.05 * np.linalg.norm(expected)
    assert found.int8_layers == 3


def with_norm_behind(kind, transposed=0):
    """The classifier with a hidden Gemm, and a BatchNorm behind it or behind the Flatten before it."""
    model = classifier()
    head = model.graph.node[-1]
    assert head.op_type == "Gemm"
    rng = np.random.default_rng(1)
    weights = {"hidden.w": rng.normal(size=(WIDTH, WIDTH)), "hidden.b": rng.normal(size=WIDTH)}
    norms = {"scale": rng.uniform(0.5, 2, WIDTH), "bias": rng.normal(size=WIDTH)}
    norms |= {"mean": rng.normal(size=WIDTH), "var": rng.uniform(0.5, 2, WIDTH)}
    weights |= {f"last.{part}": values for part, values in norms.items()}
    statistics = [f"last.{part}" for part in norms]
    if kind == "Gemm":
        hidden = helper.make_node(
            "Gemm", ["flat", "hidden.w", "hidden.b"], ["hidden"], transB=transposed, alpha=0.5, beta=2.0, name="hidden"
        )
        added = [hidden, helper.make_node("BatchNormalization", ["hidden", *statistics], ["normed"])]
    else:
        added = [helper.make_node("BatchNormalization", ["flat", *statistics], ["normed"])]
    head.input[0] = "normed"
    nodes = [*model.graph.node[:-1], *added, head]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items())
    return model


@pytest.mark.parametrize(("kind", "transposed", "muls"), [("Gemm", 0, 0), ("Gemm", 1, 0), ("Flatten", 0, 1)])
def test_a_norm_behind_a_fully_connected_layer_or_a_row_of_numbers_is_folded(tmp_path, kind, transposed, muls):
    model = with_norm_behind(kind, transposed)

    folded = fold_batch_norms(model)

    assert "BatchNormalization" not in operators(folded)
    assert operators(folded).count("Mul") == muls
    np.testing.assert_allclose(
        logits(folded, tmp_path / "f.onnx"), logits(model, tmp_path / "m.onnx"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("document", "scale"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, PixelScale(1 / 255, (0.5,) * 3, (0.25,) * 3)),
        ({"do_normalize": False}, PIXEL_SCALES["unit"]),
        ({"do_normalize": False, "do_rescale": False}, PIXEL_SCALES["raw"]),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
            PixelScale(1.0, (127.5,) * 3, (127.5,) * 3),
        ),
    ],
)
def test_preprocessing_is_read_from_the_settings_beside_the_graph(tmp_path, document, scale):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))

    assert find_pixel_scale(tmp_path / "classifier.onnx", None) == scale
    assert find_pixel_scale(tmp_path / "other" / "x.onnx", str(tmp_path / "preprocessor_config.json")) == scale


def test_preprocessing_that_is_said_counts_more_than_what_lies_beside(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))

    assert find_pixel_scale(tmp_path / "classifier.onnx", "imagenet") == PIXEL_SCALES["imagenet"]


@pytest.mark.parametrize("text", [None, "{}", "[]", "{", '{"image_mean": [0.5, 0.5, 0.5]}'])
def test_preprocessing_is_never_guessed(tmp_path, text):
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)

    with pytest.raises(CheckpointError, match="--preprocessing imagenet"):
        find_pixel_scale(tmp_path / "classifier.onnx", None)


def test_a_preprocessing_that_there_is_not_is_named_with_those_that_there_are(source, tmp_path, capsys):
    arguments = ["build", str(source()), "--family", "cnn", "--preprocessing", "torch", "--out", str(tmp_path / "o")]

    assert main(arguments) == 1

    assert "no preprocessing 'torch'; say --preprocessing imagenet" in capsys.readouterr().err


def test_ranges_are_those_of_pixels_as_they_are_prepared(source, tmp_path):
    scales = {}
    for name in ("raw", "unit"):
        found = quantize_classifier(source(), FRAMES, tmp_path / f"{name}.onnx", pixels=PIXEL_SCALES[name])
        model = onnx.load(found.path)
        scales[name] = scales_from_qdq(model)["x"]
        assert json.loads(model.metadata_props[0].value)["rescale_factor"] == PIXEL_SCALES[name].rescale_factor

    assert scales["raw"] == pytest.approx(255 * scales["unit"], rel=0.02)


def test_weights_behind_nodes_that_only_move_them_become_int8(source, tmp_path):
    model = classifier()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, operator, attributes, turned in (
        ("one.w", "Identity", {}, lambda w: w),
        ("two.w", "Transpose", {"perm": [1, 0, 2, 3]}, lambda w: w.transpose(1, 0, 2, 3)),
    ):
        array = np.ascontiguousarray(turned(numpy_helper.to_array(weights[name])))
        weights[name].CopyFrom(numpy_helper.from_array(array, f"{name}.stored"))
        model.graph.node.insert(0, helper.make_node(operator, [f"{name}.stored"], [name], **attributes))
    path = source()
    path.write_bytes(model.SerializeToString())

    found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    assert found.int8_layers == 3
    assert found.float32_layers == {"head": "the head"}
    ours, expected = logits(found.path.read_bytes(), tmp_path / "i.onnx"), logits(classifier(), tmp_path / "m.onnx")
    assert np.linalg.norm(ours - expected) < 0.05 * np.linalg.norm(expected)


def test_layers_that_stay_in_float32_are_named_with_the_reason(source, tmp_path):
    model = classifier()
    rng = np.random.default_rng(2)
    model.graph.initializer.append(
        numpy_helper.from_array(rng.normal(size=(WIDTH, WIDTH, 6, 6)).astype(np.float32) / 40, "up.w")
    )
    pool = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    model.graph.node.insert(
        list(model.graph.node).index(pool),
        helper.make_node("ConvTranspose", [pool.input[0], "up.w"], ["up"], name="up"),
    )
    next(node for node in model.graph.node if node.op_type == "GlobalAveragePool").input[0] = "up"
    path = source()
    path.write_bytes(model.SerializeToString())

    found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    assert found.float32_layers == {"head": "the head", "up": "ConvTranspose is not rounded"}
    assert found.float32_bytes == 4 * WIDTH * WIDTH * 36


def test_a_graph_with_operators_of_others_is_refused(source, tmp_path):
    path = source()
    path.write_bytes(broken(classifier(opset=9)).SerializeToString())

    with pytest.raises(CheckpointError, match=r"classifier\.onnx cannot be run: .*Guess"):
        quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)


def test_an_operator_that_onnx_cannot_convert_is_refused_with_advice():
    model = classifier(opset=7)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(helper.make_attribute("spatial", 0))

    with pytest.raises(CheckpointError, match=r"(?s)opset 7, .* cannot bring it to 13 .*export it again"):
        standard_form(model)


def test_nothing_is_left_where_what_was_written_does_not_run(source, tmp_path, monkeypatch):
    path = source()
    monkeypatch.setattr("engines.calibration.classifier.insert_qdq", lambda model, scales, but: broken(model))

    with pytest.raises(BuildError, match="does not run"):
        quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)

    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def broken(model):
    """Valid by ONNX's checker, which knows no operators of others, and nothing that can be run."""
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Guess", "somebody"
    return model


def test_one_scale_a_weight_costs_what_channels_differ_by(source, tmp_path):
    path, expected = source(spread=5), logits(classifier(spread=5), tmp_path / "m.onnx")

    errors = []
    for per_tensor in (False, True):
        found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET, per_tensor=per_tensor)
        errors.append(np.linalg.norm(logits(found.path.read_bytes(), tmp_path / "i.onnx") - expected))

    assert errors[1] > errors[0]


def test_weights_are_stored_in_a_byte_and_the_heads_are_not(source, tmp_path):
    model = onnx.load(quantize_classifier(source(), FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET).path)

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert [types[f"{name}.weight.int8"] for name in ("one", "two", "three")] == [TensorProto.INT8] * 3
    assert types["head.w"] == TensorProto.FLOAT


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"training_mode": 1}, "training mode"),
        ({"input_shape": (1, 1, SIZE, SIZE)}, "expected one image"),
        ({"input_shape": ("N", 3, "H", "W")}, "expected one image"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(options, complaint, source, tmp_path):
    with pytest.raises(CheckpointError, match=complaint):
        quantize_classifier(source(**options), FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nonsense")

    with pytest.raises(CheckpointError, match="no ONNX graph"):
        quantize_classifier(tmp_path / "x.onnx", FRAMES, tmp_path / "int8.onnx", pixels=IMAGENET)


def test_a_file_that_cannot_be_written_is_told(source, tmp_path):
    with pytest.raises(BuildError, match="cannot write"):
        quantize_classifier(source(), FRAMES, tmp_path / "none" / "int8.onnx", pixels=IMAGENET)


def test_the_command_writes_it_once(source, tmp_path, capsys):
    arguments = ["build", str(source()), "--family", "cnn", "--images", "rendered:3", "--out", str(tmp_path / "o.onnx")]
    arguments += ["--preprocessing", "imagenet"]

    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "3 layers in INT8, 1 in float32" in said.out
    assert "in float32, as the head: head" in said.out
    assert "rendered:3 holds 3 images" in said.err
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_the_reference_classifier_loses_its_norms_and_hardly_an_answer(tmp_path):
    scenes = list(labelled_scenes(range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 60)))
    seen = [frame for frame, _ in labelled_scenes(range(2_000_000_000, 2_000_000_024))]
    spec = replace(SPEC, height=96, width=96)

    def answers(path):
        engine = OnnxRuntimeBackend().load(path)
        found = [engine.evaluate({"pixels": squeeze(frame, spec)})["logits"].argmax() for frame, _ in scenes]
        engine.close()
        return np.array(found)

    found = quantize_classifier(CLASSIFIER, seen, tmp_path / "int8.onnx", pixels=IMAGENET, method="mse")

    classes = [label for _, label in scenes]
    plain, ours = answers(CLASSIFIER), answers(found.path)
    assert np.mean(plain == classes) > 0.65
    assert np.mean(ours == plain) > 0.95
    before, after = operators(onnx.load(CLASSIFIER)), operators(onnx.load(found.path))
    assert before.count("BatchNormalization") == 15
    assert after.count("BatchNormalization") == 0
    assert after.count("Conv") == found.int8_layers == 15
    assert found.size_bytes < 0.4 * CLASSIFIER.stat().st_size
