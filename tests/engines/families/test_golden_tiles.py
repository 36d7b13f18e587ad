"""LLaVA 1.6 against golden arrays: the same tiles, tokens and numbers as transformers, at five shapes of a frame."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.build import build
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import compare_traces
from engines.quantize.recipe import load_recipe
from tests.parity.golden import PROMPT
from tests.parity.golden_tiles import (
    MEAN,
    SHAPES,
    STD,
    bytes_of,
    golden_frame,
    load_golden_tiles,
    write_next_checkpoint,
)


@pytest.fixture(scope="module")
def golden():
    return load_golden_tiles()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    directory = tmp_path_factory.mktemp("next")
    return build(write_next_checkpoint(directory), load_recipe("fp16"), "onnxruntime", directory / "bundle")


@pytest.fixture(scope="module")
def trace(bundle):
    with open_bundle_tracer(bundle, PROMPT) as trace:
        yield trace


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_is_cut_into_the_same_tiles(bundle, golden, shape):
    pixels = pixels_from_frame(golden_frame(shape), bundle.manifest.image)

    assert pixels.shape == golden[shape].tiles.shape
    assert np.abs(bytes_of(pixels) - golden[shape].tiles).max() < 1.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_takes_as_many_tokens(bundle, golden, shape):
    layout = layout_of(bundle.manifest.image, *SHAPES[shape])

    assert layout.tokens == len(golden[shape].trace.image_embeddings)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bundle_computes_what_transformers_computes(bundle, golden, trace, shape):
    expected = golden[shape]
    pixels = ((expected.tiles / 255 - MEAN) / STD).astype(np.float32)

    found = trace(pixels, expected.trace.tokens, layout_of(bundle.manifest.image, *SHAPES[shape]))
    fidelity = compare_traces([found], [expected.trace])

    np.testing.assert_allclose(
        found.features, expected.trace.features, atol=1e-3 * np.abs(expected.trace.features).max()
    )
    embeddings = expected.trace.image_embeddings
    np.testing.assert_allclose(found.image_embeddings, embeddings, atol=1e-3 * np.abs(embeddings).max())
    assert fidelity.logits_relative_error < 1e-3
    assert fidelity.identical_tokens == 1.0
