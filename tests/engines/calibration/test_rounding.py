"""Methods that look at activations, in whole bundles: nearer than rounding to nearest at the same bytes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from edge_runtime.vision.image_processors import pixels_from_frame
from engines.build import build
from engines.calibration.images import open_images
from engines.calibration.observe import Observation
from engines.calibration.rounding import open_calibrated, warn_where_worse
from engines.evaluation.execution import open_bundle_tracer
from engines.families import read_model
from engines.families.heads import split_head
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.onnx.builder import Graph
from engines.onnx.tensors import load_graph
from engines.quantize.activations import ActivationMeter, measure_activations
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.recipe import FLOAT16, Precision, PrecisionPlan, load_recipe
from tests.engines.builds import WatchedCheckpoint
from tests.engines.calibration.graphs import PROMPT

TINY = open_checkpoint("synthetic:tiny-llava")
MODEL = read_model(TINY)
IMAGES = open_images("rendered:4")
UNSEEN = open_images("rendered:6")


def everything(method, **kinds):
    """A plan with the method in every matrix but the embedding's."""
    precision = Precision("int4", method, 32)
    components = dict.fromkeys(("vision_encoder", "connector", "decoder", "lm_head"), precision)
    return PrecisionPlan(method, method, {**components, "embedding": FLOAT16, **kinds})


def distance(directory, plan, reference):
    """Of features and logits to those of ``reference``, over their size, on images that were not calibrated on."""
    bundle = build(TINY, plan, "onnxruntime", directory / plan.recipe, images=IMAGES)
    traces = traced(bundle)
    pairs = [(ours.features, theirs.features) for ours, theirs in zip(traces, reference, strict=True)]
    pairs += [(ours.logits, theirs.logits) for ours, theirs in zip(traces, reference, strict=True)]
    return bundle, np.mean([np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) for ours, theirs in pairs])


def traced(bundle):
    frames = list(UNSEEN)[4:]
    with open_bundle_tracer(bundle, PROMPT) as trace:
        return [trace(pixels_from_frame(frame, MODEL.image), [1, 40, 41, 42]) for frame in frames]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return traced(build(TINY, load_recipe("fp16"), "onnxruntime", tmp_path_factory.mktemp("fp16") / "bundle"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, reference):
    return distance(tmp_path_factory.mktemp("rtn"), everything("rtn"), reference)


@pytest.mark.parametrize("method", ["gptq", "awq", "awq-gptq"])
def test_a_bundle_is_nearer_to_the_model_than_by_rounding_to_nearest_at_the_same_bytes(
    method, reference, plain, tmp_path
):
    bundle, error = distance(tmp_path, everything(method), reference)

    plain_bundle, plain_error = plain
    assert error < plain_error
    assert bundle.manifest.hashes.calibration == IMAGES.sha256
    sizes = [{c.name: c.size_bytes for c in b.manifest.components} for b in (bundle, plain_bundle)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_matrices_that_share_an_input_may_differ_in_precision_from_others(reference, plain, tmp_path):
    kept = replace(everything("gptq").components["decoder"], exceptions=(("*.down_proj", FLOAT16),))

    bundle, error = distance(tmp_path, everything("gptq", decoder=kept), reference)

    assert error < plain[1]
    plain_sizes = {c.name: c.size_bytes for c in plain[0].manifest.components}
    grown = bundle.manifest.component("decoder").size_bytes - plain_sizes["decoder.00"]
    weights = [p for name, p in MODEL.parts[3].parameters.items() if name.endswith("down_proj.weight")]
    assert grown == pytest.approx(sum(math.prod(p.shape) for p in weights) * (2 - 0.5 - 4 / 32), rel=0.02)


def test_a_smoothed_model_computes_the_same_until_it_is_rounded():
    smooth = Precision("int8", "smooth-max", None)
    plan = PrecisionPlan(
        "smooth", "smooth", dict.fromkeys(("vision_encoder", "connector", "decoder", "lm_head"), smooth)
    )
    layer = "language_model.model.layers.0."
    names = [f"{layer}{name}.weight" for name in ("input_layernorm", "self_attn.q_proj", "self_attn.v_proj")]

    with open_calibrated(TINY, plan, IMAGES) as source:
        norm, q_proj, v_proj = (source.tensor(name).astype(np.float64) for name in names)

    plain_norm, plain_q, plain_v = (TINY.tensor(name).astype(np.float64) for name in names)
    assert not np.array_equal(norm, plain_norm)
    np.testing.assert_allclose(norm * q_proj, plain_norm * plain_q, rtol=0.01, atol=1e-5)
    assert not np.array_equal(norm * v_proj, plain_norm * plain_v)  # as o_proj's scales lie in its rows


def test_an_image_held_out_tells_when_calibration_images_are_of_another_kind(caplog):
    rng = np.random.default_rng(0)
    weight, seen, unseen = (rng.normal(size=(rows, 96)).astype(np.float32) for rows in (64, 8, 64))
    activations = measure_activations(seen)
    matrix = quantize_gptq(weight, 32, activations).matrix

    warn_where_worse("down_proj", "gptq", weight, matrix, replace(activations, held_out=seen))
    assert not caplog.records
    warn_where_worse("down_proj", "gptq", weight, matrix, replace(activations, held_out=unseen))
    assert "down_proj: on an image that was held out, gptq is" in caplog.text


def test_the_image_that_is_held_out_is_in_no_statistic():
    seen = Observation(meters={"x": ActivationMeter(4)})
    for image in (1, 2, 3):
        seen.add({"x": np.full((1, 5, 4), image, np.float32)})

    assert (seen.held_out["x"] == 3).all()
    assert seen.meters["x"].rows == 10
    assert seen.meters["x"].finish().largest_magnitudes.max() == 2


def test_an_interrupted_build_ends_in_the_same_bytes(tmp_path):
    plan, options = everything("awq"), {"images": IMAGES, "group_parameters": 300_000}
    whole = build(TINY, plan, "onnxruntime", tmp_path / "whole", **options)

    interrupted = WatchedCheckpoint(interrupt_at="language_model.model.layers.3.mlp.up_proj.weight")
    with pytest.raises(KeyboardInterrupt):
        build(interrupted, plan, "onnxruntime", tmp_path / "resumed", **options)
    resumed = build(TINY, plan, "onnxruntime", tmp_path / "resumed", **options)

    assert resumed.manifest.components == whole.manifest.components


def test_a_head_cut_over_the_vocabulary_is_rounded_as_the_whole_one(tmp_path):
    head, precision = MODEL.parts[-1], everything("gptq").components["lm_head"]

    def packed(part, source):
        with Graph(tmp_path / f"{part.name}.onnx") as graph:
            part.emit(graph, OnnxRuntimeLowering(), source, precision)
            graph.save()
        tensors = load_graph(tmp_path / f"{part.name}.onnx").graph.initializer
        [tensor] = (tensor for tensor in tensors if tensor.name.endswith(".packed"))
        return numpy_helper.to_array(tensor, str(tmp_path))

    with open_calibrated(TINY, everything("gptq"), IMAGES) as source:
        pieces = [packed(part, source) for part in split_head(head, 20_000)]
        whole = packed(head, source)

    assert len(pieces) > 2
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
