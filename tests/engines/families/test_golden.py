"""Bundles against golden arrays: what transformers made of the same weights in float32."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.build import build
from engines.checkpoint import load_checkpoint
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import Trace, compare_traces
from engines.quantize.methods.rtn import block_size_for, dequantize, quantize_rtn
from engines.quantize.recipe import load_recipe
from tests.engines.checkpoints import write_checkpoint
from tests.parity.golden import CHECKPOINTS, PROMPT, golden_pixels, load_golden, write_golden_checkpoint


def traced(name: str, recipe: str, directory: Path) -> tuple[Trace, Trace]:
    """The bundle's trace of a golden input, and the golden one."""
    checkpoint = write_golden_checkpoint(name, directory)
    bundle = build(checkpoint, load_recipe(recipe), "onnxruntime", directory / "bundle")
    golden = load_golden(name)
    with open_bundle_tracer(bundle, PROMPT) as trace:
        return trace(golden_pixels(checkpoint), golden.tokens), golden


def rounded_to_int4(tensor: NDArray[np.float16]) -> NDArray[np.float16]:
    """The values that a matrix has once it was quantized; anything else as it is."""
    if tensor.ndim == 1 or tensor.shape == (17, 64):  # norms, biases and positions stay float16
        return tensor
    matrix = tensor.reshape(len(tensor), -1)
    quantized = quantize_rtn(matrix, block_size_for(matrix.shape[1], 128))
    return dequantize(quantized).astype(np.float16).reshape(tensor.shape)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_float16_bundle_computes_what_transformers_computes(name, tmp_path):
    found, golden = traced(name, "fp16", tmp_path)

    fidelity = compare_traces([found], [golden])

    assert fidelity.logits_relative_error < 1e-3
    assert fidelity.identical_tokens == 1.0
    np.testing.assert_allclose(found.features, golden.features, atol=1e-3 * np.abs(golden.features).max())
    np.testing.assert_allclose(
        found.image_embeddings, golden.image_embeddings, atol=1e-3 * np.abs(golden.image_embeddings).max()
    )


def test_the_asymmetric_recipe_leaves_the_image_untouched(tmp_path):
    found, golden = traced("tiny-llava", "asymmetric-int4", tmp_path)

    np.testing.assert_allclose(
        found.image_embeddings, golden.image_embeddings, atol=1e-3 * np.abs(golden.image_embeddings).max()
    )


def test_four_bit_engines_compute_with_the_weights_that_dequantizing_gives(tmp_path):
    checkpoint = write_golden_checkpoint("tiny-llava", tmp_path)
    rounded = write_checkpoint(checkpoint, tmp_path / "rounded", convert=rounded_to_int4)
    tokens = load_golden("tiny-llava").tokens
    traces = []
    for source, recipe in ((checkpoint, "uniform-int4"), (load_checkpoint(rounded), "fp16")):
        bundle = build(source, load_recipe(recipe), "onnxruntime", tmp_path / recipe)
        with open_bundle_tracer(bundle, PROMPT) as trace:
            traces.append(trace(golden_pixels(checkpoint), tokens))

    fidelity = compare_traces(traces[:1], traces[1:])

    assert fidelity.logits_relative_error < 0.05  # activations are rounded to int8
    assert fidelity.features_cosine > 0.999


def test_four_bit_weights_cost_accuracy_but_do_not_change_the_model(tmp_path):
    asymmetric, golden = traced("tiny-llava", "asymmetric-int4", tmp_path / "asymmetric")
    uniform, _ = traced("tiny-llava", "uniform-int4", tmp_path / "uniform")

    errors = [compare_traces([trace], [golden]).logits_relative_error for trace in (asymmetric, uniform)]

    assert 1e-3 < errors[0] < errors[1] < 1.0
