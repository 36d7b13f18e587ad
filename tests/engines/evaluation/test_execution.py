"""Engines at work: however a sequence is cut into steps and layers into groups, the numbers are the same."""

import numpy as np
import pytest

from edge_runtime.language.tokenizer import PromptTokens
from engines.build import build
from engines.evaluation.execution import open_bundle_tracer
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe

TOKENS = tuple(range(40, 70))
PIXELS = np.linspace(-2, 2, 3 * 56 * 56, dtype=np.float32).reshape(1, 3, 56, 56)


def logits(tmp_path, recipe="fp16", prompt=PromptTokens((1,), TOKENS[:5]), **options):  # noqa: B008
    checkpoint = open_checkpoint("synthetic:tiny-llava")
    bundle = build(checkpoint, load_recipe(recipe), "onnxruntime", tmp_path / "bundle", force=True, **options)
    with open_bundle_tracer(bundle, prompt) as trace:
        return trace(PIXELS, TOKENS[5:]).logits


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4"])
def test_prefilling_many_tokens_at_once_equals_feeding_them_one_by_one(tmp_path, recipe):
    one_by_one = logits(tmp_path, recipe)
    at_once = logits(tmp_path, recipe, PromptTokens((1,), TOKENS[:-1]))

    np.testing.assert_allclose(at_once[0], one_by_one[-1], atol=1e-4)


def test_the_text_before_the_image_is_attended_to(tmp_path):
    assert np.abs(logits(tmp_path) - logits(tmp_path, prompt=PromptTokens((1, 99), TOKENS[:5]))).max() > 0.01


@pytest.mark.parametrize("group_parameters", [1, 300_000])
def test_decoders_split_into_groups_compute_the_same(tmp_path, group_parameters):
    whole = logits(tmp_path)
    split = logits(tmp_path, group_parameters=group_parameters)

    np.testing.assert_allclose(split, whole, atol=1e-5)


def test_the_image_is_seen(tmp_path):
    bundle = build(
        open_checkpoint("synthetic:tiny-llava"), load_recipe("fp16"), "onnxruntime", tmp_path / "bundle", force=True
    )
    with open_bundle_tracer(bundle, PromptTokens((1,), TOKENS[:5])) as trace:
        bright, dark = (trace(PIXELS * sign, TOKENS[5:7]) for sign in (1, -1))

    assert np.abs(bright.features - dark.features).max() > 0.1
    assert np.abs(bright.logits - dark.logits).max() > 0.01
