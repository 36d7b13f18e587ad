"""The order in which operators for AMX read a matrix, and bundles, plans and machines that are made for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends.native import find_operators
from edge_runtime.errors import BundleTargetError
from edge_runtime.memory.plan import plan_memory
from engines.build import build
from engines.calibration.images import open_images
from engines.cli import main
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import compare_traces
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.onnxruntime_amx import cache_dtype, float16_tiles, int4_scales, int4_tiles
from engines.planning.plan import plan_bundle
from engines.quantize.methods.rtn import quantize_rtn
from engines.quantize.recipe import load_recipe
from tests.engines.targets.amx_products import needs_amx, weights_of
from tests.engines.targets.int8_caches import needs_int8_cache
from tests.parity.golden import PROMPT, golden_pixels, load_golden, write_golden_checkpoint


@given(slices=st.integers(1, 3), steps=st.integers(1, 3), seed=st.integers(0, 99))
def test_tiles_hold_every_weight_of_float16_where_the_header_says(slices, steps, seed):
    weight = weights_of(16 * slices, 32 * steps, seed)
    tiles = float16_tiles(weight)

    column, k = np.indices(weight.shape)
    np.testing.assert_array_equal(tiles[column // 16, k // 32, k % 32 // 2, 2 * (column % 16) + k % 2], weight)


@given(slices=st.integers(1, 3), steps=st.integers(1, 3), seed=st.integers(0, 99))
def test_tiles_hold_every_code_of_4_bits_where_the_header_says(slices, steps, seed):
    matrix = quantize_rtn(weights_of(16 * slices, 64 * steps, seed), 64)
    tiles, scales = int4_tiles(matrix), int4_scales(matrix)

    column, k = np.indices((matrix.rows, matrix.columns))
    packed = tiles[column // 16, k // 64, k % 32 // 4, 4 * (column % 16) + k % 4]
    codes = np.where(k % 64 < 32, packed & 15, packed >> 4)
    np.testing.assert_array_equal(codes.astype(np.int8) - 8, matrix.steps)
    np.testing.assert_array_equal(scales[column // 16, k // 64, column % 16], matrix.scales[column, k // 64])


@needs_amx
def test_a_bundle_for_amx_says_what_one_for_any_processor_says(tmp_path):
    checkpoint, golden = write_golden_checkpoint("tiny-llava", tmp_path), load_golden("tiny-llava")

    def traced(target):
        bundle = build(checkpoint, load_recipe("fp16"), target, tmp_path / target)
        with open_bundle_tracer(bundle, PROMPT) as trace:
            return trace(golden_pixels(checkpoint), golden.tokens)

    fidelity = compare_traces([traced("onnxruntime-amx")], [traced("onnxruntime")])
    assert fidelity.logits_relative_error < 1e-3  # of keys and values in float16; 5e-4 was seen
    assert fidelity.identical_tokens == 1.0


@needs_amx
@pytest.mark.filterwarnings("ignore:.*settle with 500.*")
@pytest.mark.parametrize("change", [pytest.param({"kv_cache": "int8"}, marks=needs_int8_cache), {}])
@pytest.mark.parametrize("recipe", ["asymmetric-int4", "asymmetric-int4-awq-gptq"])
def test_calibration_images_pass_through_its_operators_too(recipe, change, tmp_path):
    precisions = replace(load_recipe(recipe), **change)
    images = open_images("rendered:2") if precisions.has_int8 or precisions.is_calibrated else None
    checkpoint = open_checkpoint("synthetic:tiny-llava")

    def traced(target):
        bundle = build(checkpoint, precisions, target, tmp_path / target, images=images)
        with open_bundle_tracer(bundle, PROMPT) as trace:
            return trace(np.ones((1, 3, 56, 56), np.float32), range(30))

    found, expected = traced("onnxruntime-amx"), traced("onnxruntime")
    # Rows are rounded to 8 bits, and their sums in another order: 0.024 was seen.
    assert np.linalg.norm(found.logits - expected.logits) < 0.05 * np.linalg.norm(expected.logits)


def test_weights_are_planned_once_and_as_they_are_stored():
    checkpoint = open_checkpoint("synthetic:llava-1.5-7b")

    for target, least in (("onnxruntime", 2.0), ("onnxruntime-amx", 0.99)):
        plan = plan_bundle(checkpoint, load_recipe("asymmetric-int4"), target)
        encoder = plan.manifest.component("vision_encoder")
        planned_bytes = plan_memory(plan.manifest, 2048).item("vision_encoder").planned_bytes
        assert least <= planned_bytes / encoder.size_bytes < least + 0.2


def test_a_processor_without_amx_is_told_what_to_build_instead(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse avx2 avx512_vnni\n")

    with pytest.raises(
        BundleTargetError, match=r"lacks amx_tile, amx_int8, amx_bf16, avx512_bf16; build for .*onnxruntime"
    ):
        find_operators(cpuinfo)


def test_a_system_that_says_nothing_of_its_processor_has_no_amx(tmp_path):
    with pytest.raises(BundleTargetError, match="lacks amx_tile"):
        find_operators(tmp_path / "none")


def test_recipes_that_it_has_no_operators_for_are_refused(tmp_path, capsys):
    blocks = (Path("engines/recipes/uniform-int4.yaml").read_text()).replace("block_size: 128", "block_size: 32")
    (tmp_path / "blocks.yaml").write_text(blocks)

    for recipe, lack in (("nf4", "nf4 weights"), (str(tmp_path / "blocks.yaml"), "4-bit weights in blocks of 32")):
        command = ["build", "synthetic:tiny-llava", "--target", "onnxruntime-amx", "--out", str(tmp_path / "bundle")]
        assert main([*command, "--recipe", recipe]) == 1
        assert lack in capsys.readouterr().err
        assert not (tmp_path / "bundle").exists()


def test_a_cache_is_planned_as_it_is_built_for_heads_of_other_sizes_too():
    assert [cache_dtype(size) for size in (32, 64, 128, 48, 80)] == ["float16"] * 3 + ["float32"] * 2
