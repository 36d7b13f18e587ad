"""Keys and values in 8 bits: a quarter of the bytes, and a model that still says the same."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import CalibrationError, RecipeError
from edge_runtime.language.tokenizer import PromptTokens
from edge_runtime.memory.plan import plan_memory
from engines.build import build
from engines.calibration.images import open_images
from engines.calibration.observe import Observation
from engines.evaluation.execution import open_bundle_tracer
from engines.families.synthetic import open_checkpoint
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe
from engines.targets.int8_cache import with_int8_cache
from tests.engines.builds import WatchedCheckpoint, contents
from tests.engines.targets.int8_caches import needs_int8_cache

PROMPT = PromptTokens((1, 60, 61), (40, 41, 42, 43))
CHECKPOINT = open_checkpoint("synthetic:tiny-llava")

pytestmark = [needs_int8_cache, pytest.mark.filterwarnings("ignore:.*settle with 500.*")]


def build_with(out, recipe, kv_cache, checkpoint=CHECKPOINT):
    precisions = replace(load_recipe(recipe), kv_cache=kv_cache)
    images = open_images("rendered:2") if precisions.has_int8 else None
    return build(checkpoint, precisions, "onnxruntime", out, images=images, group_parameters=300_000)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return {cache: build_with(folder / cache, "fp16", cache) for cache in ("computed", "int8")}


def trace_of(bundle):
    pixels = np.random.default_rng(5).normal(size=(1, 3, 56, 56)).astype(np.float32)
    with open_bundle_tracer(bundle, PROMPT) as trace:
        return trace(pixels, range(40))


def cache_specs(bundle):
    manifest = load_bundle(bundle.path, verify_hashes=True).manifest
    specs = [spec for group in manifest.decoder_groups for spec in (*group.inputs, *group.outputs)]
    return {spec.dtype for spec in specs if spec.name.startswith(("past_", "present_"))}


def test_the_manifest_says_how_keys_and_values_are_kept(bundles):
    assert {name: cache_specs(bundle) for name, bundle in bundles.items()} == {
        "computed": {"float32"},
        "int8": {"int8"},
    }


def test_they_take_a_quarter_of_the_bytes_as_planned_and_as_built(bundles):
    def cache_bytes(memory_plan):
        return memory_plan.item("kv_cache").planned_bytes

    wide, narrow = (cache_bytes(plan_memory(bundle.manifest, 500)) for bundle in bundles.values())
    assert wide == 4 * narrow
    planned = plan_bundle(CHECKPOINT, replace(load_recipe("fp16"), kv_cache="int8"), "onnxruntime", 500)
    assert cache_bytes(planned.memory_plan) == narrow


def test_prefill_and_every_token_behind_it_are_near_those_with_a_cache_in_float32(bundles):
    exact, rounded = (trace_of(bundle).logits for bundle in bundles.values())
    errors = np.abs(rounded - exact).max(axis=1) / np.abs(exact).max(axis=1)
    assert 0 < errors.max() < 0.05


def test_weights_in_8_bits_may_have_their_cache_in_8_bits_too(tmp_path, bundles):
    bundle = build_with(tmp_path / "bundle", "asymmetric-int8-percentile", "int8")
    assert cache_specs(bundle) == {"int8"}
    exact, rounded = trace_of(bundles["computed"]).logits, trace_of(bundle).logits
    assert np.median(np.abs(rounded - exact).max(axis=1) / np.abs(exact).max(axis=1)) < 0.1


def test_an_interrupted_build_goes_on_with_the_group_that_was_missing_and_finds_the_same_scales(tmp_path, bundles):
    late = WatchedCheckpoint(interrupt_at="language_model.model.layers.3.mlp.up_proj.weight")
    with pytest.raises(KeyboardInterrupt):
        build_with(tmp_path / "bundle", "fp16", "int8", late)

    resumed = WatchedCheckpoint()
    build_with(tmp_path / "bundle", "fp16", "int8", resumed)

    assert not any("vision_tower" in name or "layers.0." in name for name in resumed.read)
    assert contents(tmp_path / "bundle") == contents(bundles["int8"].path)


class QuietWalk:
    """A runner on which every channel of keys and values is as large as ``peaks`` says."""

    def __init__(self, peaks):
        self.peaks = peaks

    def through(self, graph, channel_peaks_of):
        return Observation(channel_peaks=dict.fromkeys(channel_peaks_of, self.peaks))


def scales_of(bundle, peaks):
    group = bundle.manifest.decoder_groups[0]
    model = with_int8_cache(QuietWalk(peaks), bundle.file(group.files[0]))
    scales = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_scale")]
    return scales[0], scales[1]


def test_a_channel_has_the_scale_of_its_largest_value_and_keys_of_what_rotating_can_make_of_it(bundles):
    model = bundles["computed"].manifest.model
    width, heads = model.head_dim, model.num_kv_heads
    peaks = np.zeros((model.num_heads + 2 * heads, width), np.float32)
    peaks[model.num_heads, [0, width // 2]] = 3, 4  # of the first key head: two channels that rotate into each other
    peaks[model.num_heads + heads, 0] = 6  # of the first value head
    keys, values = scales_of(bundles["computed"], peaks.ravel())
    assert keys[0] == keys[width // 2] == pytest.approx(2 * 5 / 127)
    assert values[0] == pytest.approx(2 * 6 / 127)
    assert set(values[1:]) == {1}  # nothing is known of them, and no scale may be 0


def test_keys_that_are_no_numbers_are_refused(bundles):
    model = bundles["computed"].manifest.model
    peaks = np.full((model.num_heads + 2 * model.num_kv_heads) * model.head_dim, np.inf, np.float32)
    with pytest.raises(CalibrationError, match="not finite on calibration images"):
        scales_of(bundles["computed"], peaks)


def test_a_target_that_has_no_such_cache_refuses_the_recipe():
    with pytest.raises(RecipeError, match="asks for keys and values kept as int8, which tensorrt has not"):
        plan_bundle(CHECKPOINT, load_recipe("compact-int4"), "tensorrt")


def test_a_recipe_keeps_keys_and_values_as_they_are_computed_unless_it_says_so(tmp_path):
    assert load_recipe("fp16").kv_cache == "computed"
    assert load_recipe("compact-int4").kv_cache == "int8"
    path = tmp_path / "recipe.yaml"
    path.write_text("components: {vision_encoder: float16, connector: float16, embedding: float16, "
                    "decoder: float16, lm_head: float16}\nkv_cache: int3\n")  # fmt: skip
    with pytest.raises(RecipeError, match="kv_cache 'int3'; expected one of computed, int8"):
        load_recipe(str(path))
