"""Classifiers in INT8: BatchNorm is gone, the answers stay, and a scale a channel is what keeps them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.errors import BuildError, CheckpointError
from edge_runtime.vision.image_processors import squeeze
from engines.calibration.classifier import IMAGENET_MEAN, IMAGENET_STD, quantize_classifier
from engines.calibration.images import open_images
from engines.cli import main
from engines.onnx.batch_norm import fold_batch_norms
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED
from engines.reference.training.classification import CLASSIFIER, labelled_scenes

IMAGES = list(open_images("rendered:12"))
FRAMES, UNSEEN = IMAGES[:8], IMAGES[8:]
SIZE, WIDTH, CLASSES = 32, 12, 5
SPEC = PixelSpec(SIZE, SIZE, 2, 1 / 255, IMAGENET_MEAN, IMAGENET_STD)


def classifier(spread=1.0, training_mode=0, input_shape=(1, 3, SIZE, SIZE), tail=False):
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
        nodes.append(helper.make_node("BatchNormalization", read, [f"{name}.norm"], training_mode=training_mode))
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


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
    found = quantize_classifier(source(spread=5), FRAMES, tmp_path / "int8.onnx")

    expected = logits(classifier(spread=5), tmp_path / "m.onnx")
    ours = logits(found.path.read_bytes(), tmp_path / "i.onnx")
    assert np.linalg.norm(ours - expected) < 0.05 * np.linalg.norm(expected)
    assert found.int8_layers == 3
    assert found.float32_layers == ("head",)
    assert "BatchNormalization" not in operators(onnx.load(found.path))
    assert found.size_bytes == found.path.stat().st_size


def test_one_scale_a_weight_costs_what_channels_differ_by(source, tmp_path):
    path, expected = source(spread=5), logits(classifier(spread=5), tmp_path / "m.onnx")

    errors = []
    for per_tensor in (False, True):
        found = quantize_classifier(path, FRAMES, tmp_path / "int8.onnx", per_tensor=per_tensor)
        errors.append(np.linalg.norm(logits(found.path.read_bytes(), tmp_path / "i.onnx") - expected))

    assert errors[1] > errors[0]


def test_weights_are_stored_in_a_byte_and_the_heads_are_not(source, tmp_path):
    model = onnx.load(quantize_classifier(source(), FRAMES, tmp_path / "int8.onnx").path)

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
        quantize_classifier(source(**options), FRAMES, tmp_path / "int8.onnx")


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nonsense")

    with pytest.raises(CheckpointError, match="no ONNX graph"):
        quantize_classifier(tmp_path / "x.onnx", FRAMES, tmp_path / "int8.onnx")


def test_a_file_that_cannot_be_written_is_told(source, tmp_path):
    with pytest.raises(BuildError, match="cannot write"):
        quantize_classifier(source(), FRAMES, tmp_path / "none" / "int8.onnx")


def test_the_command_writes_it_once(source, tmp_path, capsys):
    arguments = ["build", str(source()), "--family", "cnn", "--images", "rendered:3", "--out", str(tmp_path / "o.onnx")]

    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "3 layers in INT8, head in float32" in said.out
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

    found = quantize_classifier(CLASSIFIER, seen, tmp_path / "int8.onnx", method="mse")

    classes = [label for _, label in scenes]
    plain, ours = answers(CLASSIFIER), answers(found.path)
    assert np.mean(plain == classes) > 0.65
    assert np.mean(ours == plain) > 0.95
    before, after = operators(onnx.load(CLASSIFIER)), operators(onnx.load(found.path))
    assert before.count("BatchNormalization") == 15
    assert after.count("BatchNormalization") == 0
    assert after.count("Conv") == found.int8_layers == 15
    assert found.size_bytes < 0.4 * CLASSIFIER.stat().st_size
