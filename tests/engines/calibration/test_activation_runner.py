"""Images on their way through the components: the decoder sees what it sees in flight, and caches spare the way."""

import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.errors import BackendError, CalibrationError
from edge_runtime.language.embedding import open_embedding
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.build import build
from engines.calibration.activation_runner import open_runner
from engines.calibration.images import open_images
from engines.calibration.scales import calibrate_on_cpu
from engines.evaluation.execution import open_bundle_tracer
from engines.families import read_model
from engines.families.base import ImageOptions
from engines.families.synthetic import open_checkpoint
from engines.onnx.tensors import activation_names, linear_inputs, load_graph, tensors_in_products
from engines.quantize.recipe import load_recipe
from engines.reference.answers import answer_tokens
from tests.engines.calibration.graphs import MODEL, PROMPT, TINY, TinyEmbedding, emit_parts, two_layers

ORDER = ["vision_encoder", "connector", "decoder.00", "decoder.01", "lm_head"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return emit_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def runner():
    with open_runner(open_images("rendered:3"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
        yield runner


def go(runner, parts, *names):
    for name in names:
        runner.through(parts[name])


def test_the_model_computes_on_the_way_what_it_computes_in_flight(runner, parts, tmp_path):
    bundle = build(TINY, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle")
    go(runner, parts, *ORDER[:4])
    largest = runner.through(parts["lm_head"], peaks_of=["logits"]).peaks["logits"]

    images = [pixels_from_frame(frame, MODEL.image) for frame in open_images("rendered:3")]
    with open_bundle_tracer(bundle, PROMPT) as trace:
        logits = [trace(image, [1]).logits for image in images]

    assert largest == pytest.approx(np.abs(logits).max(), rel=1e-4)


def test_an_image_of_its_own_shape_is_computed_as_in_flight(tmp_path):
    checkpoint, options = open_checkpoint("synthetic:tiny-qwen3-vl"), ImageOptions(frames=((96, 96), (160, 90)))
    bundle = build(checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle", image=options)
    model = read_model(checkpoint, options=options)
    with open_runner(open_images("rendered:2"), model.image, model.positions, PROMPT, open_embedding(bundle)) as runner:
        go(runner, {part.name: bundle.path / f"{part.name}.onnx" for part in model.parts}, *ORDER[:2], "decoder.00")
        largest = runner.through(bundle.path / "lm_head.onnx", peaks_of=["logits"]).peaks["logits"]

    layout = layout_of(model.image, 96, 176)  # of the largest grid, 6 x 11, as all images are calibrated
    frames = [cv2.resize(frame, (176, 96), interpolation=cv2.INTER_AREA) for frame in open_images("rendered:2")]
    with open_bundle_tracer(bundle, PROMPT) as trace:
        logits = [trace(pixels_from_frame(frame, model.image), [1], layout).logits for frame in frames]

    assert largest == pytest.approx(np.abs(logits).max(), rel=1e-4)


def test_answers_follow_the_prompt_by_turns(parts):
    answers = ((70, 71), (80, 81))
    with open_runner(
        open_images("rendered:3"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding(), answers
    ) as runner:
        go(runner, parts, "vision_encoder", "connector")
        last = [sample["hidden_states"][0, -2:] for sample in runner.samples(parts["decoder.00"])]

    np.testing.assert_array_equal(last, [TinyEmbedding().rows(answers[i % 2]) for i in range(3)])


def test_answers_are_of_one_length_and_end_in_many_ways():
    answers = answer_tokens(Tokenizer.from_str(TINY.tokenizer_json.decode()), answers=20, tokens=40)

    assert {len(ids) for ids in answers} == {40}
    assert len({ids[-1] for ids in answers}) > 5


def test_answers_are_what_a_model_writes():
    tokenizer = Tokenizer.from_str(TINY.tokenizer_json.decode())
    [first, *_] = answer_tokens(tokenizer, answers=2, tokens=200)

    assert tokenizer.decode(list(first)).startswith('{"findings":[{"class":"crack","severity":')


def test_answers_have_corners_in_the_steps_of_the_family():
    tokenizer = Tokenizer.from_str(TINY.tokenizer_json.decode())
    [first, *_] = answer_tokens(tokenizer, answers=1, tokens=10_000, coordinate_steps=100_000)

    assert re.search(r'"region":\[\d{4,5},', tokenizer.decode(list(first)))


def test_hidden_states_are_the_prompts_rows_with_the_images_between(runner, parts):
    go(runner, parts, "vision_encoder", "connector")
    before, after = (TinyEmbedding().rows(ids) for ids in (PROMPT.before_image, PROMPT.after_image))

    for sample in runner.samples(parts["decoder.00"]):
        rows = sample["hidden_states"]
        assert rows.shape == (1, 3 + 16 + 4, 128)
        np.testing.assert_array_equal(rows[0, :3], before)
        np.testing.assert_array_equal(rows[0, -4:], after)
        assert np.abs(rows[0, 3:-4]).max() > 0


def test_samples_are_what_the_component_reads_and_can_be_read_again(runner, parts):
    go(runner, parts, "vision_encoder", "connector")
    samples = runner.samples(parts["decoder.00"])

    one, other = list(samples), list(samples)

    assert len(samples) == len(one) == 3
    assert set(one[0]) == {value.name for value in load_graph(parts["decoder.00"]).graph.input}
    assert one[0]["total_sequence_length"] == one[0]["seqlens_k"] + 1 == 23
    assert not one[0]["past_key.0"].any()
    assert runner.shapes(parts["decoder.00"]) == {name: array.shape for name, array in one[1].items()}
    np.testing.assert_array_equal(one[2]["hidden_states"], other[2]["hidden_states"])


def test_shapes_are_known_before_any_image_passes(runner, parts):
    for name, behind in pairwise(ORDER):
        runner.skip(parts[name])
        rows = next(iter(runner.shapes(parts[behind]).values()))
        assert rows[1] == {"connector": 16, "lm_head": 1}.get(behind, 3 + 16 + 4)


def test_a_component_out_of_order_is_refused(runner, parts):
    with pytest.raises(CalibrationError, match=r"connector.onnx reads features, and pixel_values are up next"):
        runner.through(parts["connector"])


def test_a_tensor_of_another_graph_is_refused(runner, parts):
    with pytest.raises(CalibrationError, match="has no tensor 'nonsense'"):
        runner.through(parts["vision_encoder"], histograms_of=["nonsense"])


def test_histograms_and_peaks_agree(runner, parts):
    model = load_graph(parts["vision_encoder"])
    names = sorted(set(linear_inputs(model).values()))

    seen = runner.through(parts["vision_encoder"], histograms_of=names, peaks_of=names)

    assert len(names) == 9  # the patches, and four matrices in each of two layers
    assert {name: histogram.largest for name, histogram in seen.histograms.items()} == seen.peaks
    assert all(histogram.counts.sum() > 0 for histogram in seen.histograms.values())


def test_the_data_hash_follows_images_prompt_and_components(parts, tmp_path):
    def data(images="rendered:2", prompt=PROMPT, through=()):
        with open_runner(open_images(images), MODEL.image, MODEL.positions, prompt, TinyEmbedding()) as runner:
            go(runner, parts, *through)
            return runner.data_sha256

    other_prompt = type(PROMPT)(PROMPT.before_image, (*PROMPT.after_image, 44))
    hashes = [data(), data("rendered:3"), data(prompt=other_prompt), data(through=["vision_encoder"])]

    assert data() == hashes[0]
    assert len(set(hashes)) == 4


def test_every_activation_of_a_float_graph_has_a_name(parts):
    model = two_layers()

    assert activation_names(model) == ["x", "wide", "bent", "narrow", "y"]
    assert linear_inputs(model) == {"first.weight": "x", "second.weight": "bent"}


def test_both_sides_of_a_weight_are_calibrated(parts):
    assert tensors_in_products(two_layers()) == ["x", "wide", "bent", "narrow", "y"]
    assert len(tensors_in_products(load_graph(parts["decoder.00"]))) == 2 * 4 * 2
    assert len(tensors_in_products(load_graph(parts["vision_encoder"]))) == 3 * (1 + 2 * 4)  # a bias everywhere


def test_weights_are_named_as_their_matrices(parts):
    weights = linear_inputs(load_graph(parts["decoder.00"]))

    assert len(weights) == 4 * 2
    assert "language_model.model.layers.0.self_attn.qkv_proj.weight" in weights
    assert len(set(weights.values())) == len(weights)


def calibrate_all(runner, parts, cache: Path, names=ORDER):
    return {name: calibrate_on_cpu(runner, parts[name], cache / f"{name}.cache", "10.3.0") for name in names}


def test_scales_come_from_the_caches_where_these_are_fresh(parts, tmp_path):
    def calibrate():
        with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
            return calibrate_all(runner, parts, tmp_path)

    first = calibrate()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    assert calibrate() == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert all(0 < scale < 10 for scales in first.values() for scale in scales.values())


def test_a_cache_that_is_missing_behind_fresh_ones_is_made_again(parts, tmp_path):
    def calibrate():
        with open_runner(open_images("rendered:2"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
            return calibrate_all(runner, parts, tmp_path, ORDER[:3])

    first = calibrate()
    (tmp_path / "decoder.00.cache").unlink()

    assert calibrate() == first


def test_a_cache_of_other_images_is_refused(parts, tmp_path):
    for images, expected in (("rendered:2", None), ("rendered:3", "another set of images")):
        with open_runner(open_images(images), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
            if expected is None:
                calibrate_all(runner, parts, tmp_path, ORDER[:1])
            else:
                with pytest.raises(CalibrationError, match=expected):
                    calibrate_all(runner, parts, tmp_path, ORDER[:1])


def test_a_cache_of_another_graph_is_refused(parts, tmp_path):
    images = open_images("rendered:2")
    with open_runner(images, MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner:
        calibrate_all(runner, parts, tmp_path, ORDER[:1])
    model = load_graph(parts["vision_encoder"])
    model.graph.node[-1].name = "renamed"
    other = parts["vision_encoder"].with_name("other.onnx")
    other.write_bytes(model.SerializeToString())

    with (
        open_runner(images, MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as runner,
        pytest.raises(CalibrationError, match="another graph"),
    ):
        calibrate_all(runner, {"vision_encoder": other}, tmp_path, ORDER[:1])


def test_a_walk_leaves_nothing_behind(parts, tmp_path):
    images = open_images("rendered:2")
    with open_runner(images, MODEL.image, MODEL.positions, PROMPT, TinyEmbedding(), directory=tmp_path) as runner:
        go(runner, parts, *ORDER[:3])
        files = [file for folder in tmp_path.iterdir() for file in folder.iterdir()]

    assert len(files) == 1  # what the component up next reads
    assert list(tmp_path.iterdir()) == []
    assert not list(parts["lm_head"].parent.glob("*observed*"))


def test_an_unknown_method_is_refused(runner, parts, tmp_path):
    with pytest.raises(CalibrationError, match="no method 'guess'; there are entropy"):
        calibrate_on_cpu(runner, parts["vision_encoder"], tmp_path / "x.cache", "10.3.0", "guess")


def test_a_graph_that_is_none_is_refused(runner, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nonsense")

    with pytest.raises((CalibrationError, BackendError)):
        runner.through(tmp_path / "x.onnx")
