"""Models that keep a frame's shape against golden arrays: the patches, tokens and numbers of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.language.decoder import Decoder
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.build import build
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import compare_traces
from engines.quantize.recipe import load_recipe
from tests.parity.golden import PROMPT
from tests.parity.golden_native import (
    FRAMES,
    NAMES,
    ROWS,
    load_golden_pictures,
    patch_bytes,
    write_native_checkpoint,
)
from tests.parity.golden_tiles import SHAPES, golden_frame


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    return request.param, load_golden_pictures(request.param)


@pytest.fixture(scope="module")
def checkpoint(golden, tmp_path_factory):
    return write_native_checkpoint(golden[0], tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("native-bundle") / "bundle"
    return build(checkpoint, load_recipe("fp16"), "onnxruntime", out, image=FRAMES, group_parameters=300_000)


def pixels_of(picture, processor):
    """Normalised patches (1, P, 3 h w), as the model's processor makes them."""
    mean, std = (np.array(processor[key])[:, None] for key in ("image_mean", "image_std"))
    channels = picture.patches.reshape(len(picture.patches), 3, -1) / 255
    return ((channels - mean) / std).astype(np.float32).reshape(1, len(picture.patches), -1)


def traced(bundle, checkpoint, golden, shape):
    """What the bundle computes, beside what transformers computed."""
    expected = golden[1][shape]
    with open_bundle_tracer(bundle, PROMPT) as trace:
        layout = layout_of(bundle.manifest.image, *SHAPES[shape])
        return trace(pixels_of(expected, checkpoint.image_processor), expected.trace.tokens, layout), expected.trace


def first_rows(found):
    return replace(found, logits=found.logits[:ROWS], tokens=found.tokens[:ROWS])


def logits_error(bundle, checkpoint, golden, shape):
    found, expected = traced(bundle, checkpoint, golden, shape)
    return compare_traces([first_rows(found)], [first_rows(expected)]).logits_relative_error


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_becomes_the_same_patches(bundle, checkpoint, golden, shape):
    [pixels] = pixels_from_frame(golden_frame(shape), bundle.manifest.image)

    assert pixels.shape == golden[1][shape].patches.shape
    assert np.abs(patch_bytes(pixels, checkpoint.image_processor) - golden[1][shape].patches).max() < 1.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bundle_computes_what_transformers_computes(bundle, checkpoint, golden, shape):
    found, expected = traced(bundle, checkpoint, golden, shape)

    for name in ("features", "image_embeddings"):
        exact = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), exact, atol=1e-4 * np.abs(exact).max())
    assert compare_traces([first_rows(found)], [first_rows(expected)]).logits_relative_error < 1e-3
    assert tuple(found.logits.argmax(axis=-1)) == expected.tokens


@pytest.mark.parametrize("golden", ["tiny-qwen3-vl"], indirect=True)
def test_maps_that_join_the_decoder_matter(bundle, checkpoint, golden, monkeypatch):
    read = Decoder.joining_rows

    def elsewhere(self, tokens):
        return {name: np.zeros_like(rows) for name, rows in read(self, tokens).items()}

    monkeypatch.setattr(Decoder, "joining_rows", elsewhere)
    assert logits_error(bundle, checkpoint, golden, "16:9") > 1e-2


@pytest.mark.parametrize("golden", ["tiny-qwen2.5-vl"], indirect=True)
def test_windows_matter(checkpoint, golden, tmp_path):
    vision = {**checkpoint.config["vision_config"], "fullatt_block_indexes": [0, 1, 2, 3]}
    without = replace(checkpoint, config={**checkpoint.config, "vision_config": vision})
    bundle = build(without, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle", image=FRAMES)
    assert logits_error(bundle, checkpoint, golden, "16:9") > 1e-2


def test_places_in_height_and_width_matter(bundle, checkpoint, golden, monkeypatch):
    monkeypatch.setattr(Decoder, "place_image", lambda self, grid: None)
    assert logits_error(bundle, checkpoint, golden, "16:9") > 1e-2


def test_another_grid_of_as_many_tokens_is_another_picture(bundle, checkpoint, golden):
    picture = golden[1]["16:9"]
    with open_bundle_tracer(bundle, PROMPT) as trace:
        layout = layout_of(bundle.manifest.image, *SHAPES["portrait"])
        found = trace(pixels_of(picture, checkpoint.image_processor), picture.trace.tokens[:1], layout)
    assert np.abs(found.features - picture.trace.features).max() > 1e-2 * np.abs(picture.trace.features).max()
