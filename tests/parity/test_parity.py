"""Bundles against transformers itself, in float32, on the same weights. Needs the ``parity`` extra."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.language.embedding import open_embedding
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.build import build
from engines.calibration.activation_runner import open_runner
from engines.calibration.images import CalibrationImages
from engines.checkpoint import load_checkpoint
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import compare_traces
from engines.evaluation.parity import open_transformers, see_qwen
from engines.families.base import ImageOptions
from engines.quantize.recipe import load_recipe
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene
from tests.parity.golden import CHECKPOINTS, PROMPT, load_golden
from tests.parity.golden_families import (
    image_of,
    load_golden_families,
    make_golden_families,
    write_family_checkpoint,
)
from tests.parity.golden_native import NAMES, ROWS, load_golden_pictures, write_native_checkpoint
from tests.parity.golden_processors import golden_frame, load_golden_processors, make_golden_processors
from tests.parity.golden_tiles import load_golden_tiles
from tests.parity.make_golden import make_golden, make_golden_pictures, make_golden_tiles

pytestmark = pytest.mark.parity

REFERENCE = Path(__file__).parents[2] / "engines" / "reference" / "checkpoint"
SCENES = 50
LONGEST_ANSWER = 256  # tokens


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_golden_arrays_are_what_transformers_makes_today(name, tmp_path):
    made, stored = make_golden(name, tmp_path), load_golden(name)

    assert made.tokens == stored.tokens
    for field in ("features", "image_embeddings", "logits"):
        expected = getattr(stored, field)
        np.testing.assert_allclose(getattr(made, field), expected, atol=1e-4 * np.abs(expected).max())


def test_the_golden_tiles_are_what_transformers_makes_today(tmp_path):
    made, stored = make_golden_tiles(tmp_path), load_golden_tiles()

    for shape, golden in stored.items():
        np.testing.assert_array_equal(made[shape].tiles, golden.tiles)
        assert made[shape].trace.tokens == golden.trace.tokens
        for field in ("features", "image_embeddings", "logits"):
            expected = getattr(golden.trace, field)
            np.testing.assert_allclose(getattr(made[shape].trace, field), expected, atol=1e-4 * np.abs(expected).max())


def test_the_golden_images_are_what_transformers_processors_make_today():
    made, stored = make_golden_processors(), load_golden_processors()

    assert made.keys() == stored.keys()
    for key, golden in stored.items():
        np.testing.assert_array_equal(made[key].tiles, golden.tiles)
        assert made[key].tokens == golden.tokens


def test_the_golden_answers_are_what_transformers_gives_today(tmp_path):
    made, stored = make_golden_families(tmp_path), load_golden_families()

    for key, golden in stored.items():
        assert (made[key].tokens, made[key].image_tokens) == (golden.tokens, golden.image_tokens)
        for field in ("features", "image_embeddings", "logits"):
            expected = getattr(golden, field)
            np.testing.assert_allclose(getattr(made[key], field), expected, atol=1e-4 * np.abs(expected).max())


def test_idefics3_is_the_code_of_smolvlm(tmp_path):
    golden, frame = load_golden_families()["smolvlm 12", "16:9"], golden_frame("16:9")
    path = write_family_checkpoint("tiny-smolvlm", tmp_path).path
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "idefics3", "vision_config": {**config["vision_config"], "model_type": "idefics3_vision"}}
    (path / "config.json").write_text(json.dumps(config))
    image = image_of(load_checkpoint(path), tiles=12)

    trace = open_transformers(path, PROMPT, eos_token_ids=())
    found = trace(pixels_from_frame(frame, image), len(golden.tokens), layout_of(image, *frame.shape[:2]))

    assert found.tokens == golden.tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_pictures_are_what_transformers_makes_today(name, tmp_path):
    made, stored = make_golden_pictures(name, tmp_path), load_golden_pictures(name)

    for shape, golden in stored.items():
        np.testing.assert_array_equal(made[shape].patches, golden.patches)
        assert made[shape].trace.tokens == golden.trace.tokens
        for field, rows in (("features", None), ("image_embeddings", None), ("logits", ROWS)):
            expected = getattr(golden.trace, field)
            found = getattr(made[shape].trace, field)[:rows]
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_reads_what_it_reads_in_transformers(name, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText

    checkpoint = write_native_checkpoint(name, tmp_path)
    options = ImageOptions(frames=((176, 96),))
    bundle = build(
        checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle", image=options, group_parameters=1
    )
    manifest = bundle.manifest
    layout = layout_of(manifest.image, 96, 176)
    [source] = layout.sources
    frame = np.random.default_rng(0).integers(64, 192, (source.rows.full, source.columns.full, 3), dtype=np.uint8)
    images, found = CalibrationImages("a frame", "", 1, lambda: iter([frame])), []
    with open_runner(images, manifest.image, manifest.positions, PROMPT, open_embedding(bundle)) as runner:
        for component in manifest.components:
            path = bundle.path / f"{component.name}.onnx"
            if component.role == "decoder":
                found += [sample["hidden_states"][0] for sample in runner.samples(path)]
            if component.role in ("vision_encoder", "connector", "decoder"):
                runner.through(path)

    model = AutoModelForImageTextToText.from_pretrained(checkpoint.path, dtype=torch.float32).eval()
    expected = []
    for layer in model.model.language_model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: expected.append(inputs[0][0].numpy()))
    with torch.inference_mode():
        tokens = [*PROMPT.before_image, *[model.config.image_token_id] * layout.tokens, *PROMPT.after_image]
        ids = torch.tensor([tokens])
        _, inputs = see_qwen(torch, model, torch.from_numpy(pixels_from_frame(frame, manifest.image)), layout)
        model(input_ids=ids, mm_token_type_ids=(ids == model.config.image_token_id).int(), **inputs)

    assert len(found) == len(expected) == manifest.model.num_layers
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine * theirs).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs) > 0.9999


@pytest.mark.timeout(1800)
def test_the_reference_inspector_says_the_same_in_both_on_50_scenes(tmp_path):
    checkpoint = load_checkpoint(REFERENCE)
    bundle = build(checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle")
    manifest, model = bundle.manifest, bundle.manifest.model
    prompt = prompt_tokens(load_tokenizer(bundle.file(manifest.tokenizer)), manifest.prompt, model.image_token_id)
    trace_reference = open_transformers(checkpoint.path, prompt, model.eos_token_ids)
    found, expected = [], []
    with open_bundle_tracer(bundle, prompt) as trace_bundle:
        for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + SCENES):
            frame = render_scene(seed).image
            pixels, layout = pixels_from_frame(frame, manifest.image), layout_of(manifest.image, *frame.shape[:2])
            expected.append(trace_reference(pixels, LONGEST_ANSWER, layout))
            found.append(trace_bundle(pixels, expected[-1].tokens))

    fidelity = compare_traces(found, expected)

    assert fidelity.logits_relative_error < 1e-3
    assert fidelity.identical_tokens == 1.0
    assert fidelity.features_cosine > 0.9999
