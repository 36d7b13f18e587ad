"""SmolVLM and InternVL against golden arrays: tokens and numbers of transformers, for frames of five shapes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.build import build
from engines.evaluation.execution import open_bundle_tracer
from engines.families.base import ImageOptions
from engines.quantize.recipe import load_recipe
from tests.parity.golden import PROMPT
from tests.parity.golden_families import CASES, excerpt, load_golden_families, write_family_checkpoint
from tests.parity.golden_processors import SHAPES, golden_frame


@pytest.fixture(scope="module")
def golden():
    return load_golden_families()


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    name, tiles = CASES[request.param]
    directory = tmp_path_factory.mktemp("family")
    checkpoint = write_family_checkpoint(name, directory)
    recipe, options = load_recipe("fp16"), ImageOptions(tiles=tiles)
    bundle = build(checkpoint, recipe, "onnxruntime", directory / "bundle", image=options)
    with open_bundle_tracer(bundle, PROMPT) as trace:
        yield request.param, bundle.manifest.image, trace


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bundle_computes_what_transformers_computes(case, golden, shape):
    name, image, trace = case
    frame, expected = golden_frame(shape), golden[name, shape]

    whole = trace(pixels_from_frame(frame, image), expected.tokens, layout_of(image, *frame.shape[:2]))
    found = excerpt(whole)

    assert len(expected.tokens) == 64
    assert tuple(whole.logits.argmax(axis=1)) == expected.tokens
    assert found.image_tokens == expected.image_tokens
    assert relative_error(found.features, expected.features) < 1e-4
    assert relative_error(found.image_embeddings, expected.image_embeddings) < 1e-4
    assert relative_error(found.logits, expected.logits) < 1e-3


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
