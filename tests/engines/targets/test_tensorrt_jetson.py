"""The builder's TensorRT half on the simulated Jetson: both routes to INT8, what they keep, and what they refuse."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import BackendError, CalibrationError
from engines.build import build
from engines.calibration.images import open_images
from engines.evaluation.verify import verify
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe
from tests.engines.builds import contents
from tests.engines.checkpoints import LoudCheckpoint
from tests.engines.targets.test_int8 import build_int8, feed_forward_int8, recipe_of, tracing
from tests.engines.targets.test_products import products_int8

pytestmark = pytest.mark.simulated_jetson

TINY = "synthetic:tiny-llava"
VISION_LAYERS = 2  # that are read


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def images():
    return open_images("rendered:2")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, images):
    """The INT8 recipe by both routes; beside them, the ranges that they found."""
    folder = tmp_path_factory.mktemp("routes")
    timing = {"timing_cache": folder / "timing"}
    return {
        route: build_tiny(
            folder / route, images=images, int8_route=route, calibration_cache=folder / f"{route}-ranges", **timing
        )
        for route in ("implicit", "explicit")
    }


def build_tiny(out, recipe="asymmetric-int8", checkpoint=None, **options):
    checkpoint = checkpoint or open_checkpoint(TINY)
    return build(checkpoint, load_recipe(recipe), "tensorrt", out, group_parameters=300_000, **options)


def engine_of(bundle, name):
    """What the double decided for a component, and the graph that it will execute."""
    from tensorrt._plan import plan_of

    [component] = [component for component in bundle.manifest.components if component.name == name]
    return plan_of(bundle.file(component.files[0]).read_bytes())


def products(model):
    """Names of the products with weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights}


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_a_bundle_says_by_what_and_for_what_it_was_built(bundles, route):
    build_notes = bundles[route].manifest.build

    assert build_notes["int8_route"] == route
    assert (build_notes["tensorrt"], build_notes["compute_capability"]) == ("10.3.0", "8.7")


def test_the_implicit_route_lets_tensorrt_round_what_meets_weights_and_nothing_else(bundles):
    plan, model = engine_of(bundles["implicit"], "decoder.00")

    assert set(plan.int8_layers) == products(model)
    assert len(plan.int8_layers) == 4 * 2  # qkv, o, gate and up, down of two layers


def test_the_explicit_route_rounds_in_the_graph(bundles):
    plan, model = engine_of(bundles["explicit"], "decoder.00")

    assert plan.int8_layers == ()
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 4 * 2


@pytest.mark.parametrize("method", ["max", "smooth-twin-max"])
def test_both_routes_round_only_the_matrices_that_a_recipe_names(tmp_path, images, method):
    recipe = feed_forward_int8(tmp_path / "recipe.yaml", method)
    built = {
        route: build_tiny(tmp_path / route, recipe, images=images, int8_route=route)
        for route in ("implicit", "explicit")
    }

    plan, model = engine_of(built["implicit"], "vision_encoder")
    readers = {node.name: node.input[1] for node in model.graph.node if node.name in plan.int8_layers}
    named = {name for name in products(model) if ".mlp." in readers.get(name, "")}
    assert named == products(model) & set(plan.int8_layers)
    _, model = engine_of(built["explicit"], "vision_encoder")
    rounded = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert len(named) == rounded == (3 if "twin" in method else 2) * VISION_LAYERS


@pytest.mark.parametrize("method", ["max", "twin-max"])
def test_both_routes_round_what_attention_multiplies_as_the_bundle_for_any_cpu_does(tmp_path, images, method):
    recipe = products_int8(tmp_path / "recipe.yaml", method)
    expected = tracing(build_int8(tmp_path / "cpu", images, recipe=recipe)).features
    built = {
        route: build_tiny(tmp_path / route, recipe, images=images, int8_route=route)
        for route in ("implicit", "explicit")
    }

    for bundle in built.values():
        found = tracing(bundle).features
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    a_layer = 3 if "twin" in method else 2
    assert len(engine_of(built["implicit"], "vision_encoder")[0].int8_layers) == a_layer * VISION_LAYERS
    _, model = engine_of(built["explicit"], "vision_encoder")
    rounded = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert rounded == (5 if "twin" in method else 4) * VISION_LAYERS  # queries, keys, values, and one side or both


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_a_decoder_with_some_matrices_in_int8_computes_what_the_bundle_for_any_cpu_computes(tmp_path, images, route):
    mlp = '{dtype: float16, except: {"*.mlp.*": {dtype: int8, method: max}}}'
    recipe = recipe_of(tmp_path / "recipe.yaml", decoder=mlp)
    expected = tracing(build_int8(tmp_path / "cpu", images, recipe=recipe)).logits

    found = tracing(build_tiny(tmp_path / "jetson", recipe, images=images, int8_route=route)).logits

    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_both_routes_compute_what_the_bundle_for_any_cpu_computes(bundles, images, tmp_path, route):
    expected = tracing(build_int8(tmp_path / "cpu", images)).logits

    found = tracing(bundles[route]).logits

    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)  # INT8 is further off than both together


def test_components_in_float16_go_the_explicit_route_always(bundles):
    plan, model = engine_of(bundles["implicit"], "vision_encoder")

    assert plan.int8_layers == ()
    assert not any("Quantize" in node.op_type for node in model.graph.node)


def test_ranges_that_are_known_spare_the_images(bundles, images, tmp_path):
    unread = replace(images, _read=lambda: pytest.fail("an image was read"))
    ranges = bundles["implicit"].path.parent / "implicit-ranges"

    again = build_tiny(tmp_path / "again", images=unread, int8_route="implicit", calibration_cache=ranges)

    assert contents(again.path) == contents(bundles["implicit"].path)


def test_ranges_of_other_images_are_refused(bundles, tmp_path):
    ranges = bundles["implicit"].path.parent / "implicit-ranges"

    with pytest.raises(CalibrationError, match="another set of images"):
        build_tiny(tmp_path / "b", images=open_images("rendered:1"), int8_route="implicit", calibration_cache=ranges)


def test_int8_beside_four_bits_goes_the_explicit_route(images, tmp_path):
    mixed = '{dtype: int4, block_size: 32, method: rtn, except: {"*.mlp.*": {dtype: int8, method: max}}}'
    recipe = recipe_of(tmp_path / "recipe.yaml", decoder=mixed)

    bundle = build_tiny(tmp_path / "bundle", recipe, images=images, int8_route="implicit")

    plan, model = engine_of(bundle, "decoder.00")
    assert plan.int8_layers == ()
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2 * 2  # of the MLPs of two layers


def test_measured_times_are_kept_for_the_next_engine(bundles):
    timings = (bundles["implicit"].path.parent / "timing").read_text()

    assert timings.endswith("\n10")  # engines, of two bundles


def test_a_damaged_timing_cache_is_begun_anew(tmp_path):
    (tmp_path / "timing").write_bytes(b"of another GPU")

    build_tiny(tmp_path / "bundle", "asymmetric-int4", timing_cache=tmp_path / "timing")

    assert (tmp_path / "timing").read_text().endswith("\n5")


def test_times_are_kept_in_the_users_cache_by_version_and_gpu(tmp_path):
    build_tiny(tmp_path / "bundle", "fp16")

    assert (tmp_path / "cache" / "edge-engines" / "tensorrt-10.3.0-sm8.7.timing").is_file()


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4"])
def test_a_decoder_has_profiles_for_prefill_and_decode_and_its_weights_once(tmp_path, recipe):
    plan, _ = engine_of(build_tiny(tmp_path / "bundle", recipe), "decoder.00")

    tokens = [[shape[1] for shape in profile["hidden_states"]] for profile in plan.profiles]
    assert [steps[0] for steps in tokens] == [1, 1]
    assert tokens[0][2] > 1
    assert tokens[1] == [1, 1, 1]
    assert plan.weight_copies == 1


def test_profiles_for_int8_are_the_same_by_both_routes(bundles):
    plans = [engine_of(bundles[route], "decoder.00")[0] for route in ("implicit", "explicit")]

    assert plans[0].profiles == plans[1].profiles
    assert [(len(plan.profiles), plan.weight_copies) for plan in plans] == [(2, 1)] * 2


class Terminal(io.StringIO):
    """One at which somebody presses Ctrl-C as soon as ``last_words`` are to be read."""

    def __init__(self, last_words=None):
        super().__init__()
        self.last_words = last_words

    def isatty(self):
        return True

    def write(self, text):
        if self.last_words and self.last_words in text:
            raise KeyboardInterrupt
        return super().write(text)


def test_the_progress_of_every_engine_is_shown_on_a_terminal(tmp_path):
    with redirect_stderr(Terminal()) as terminal:
        bundle = build_tiny(tmp_path / "bundle", "asymmetric-int4")

    engines = [component.name for component in bundle.manifest.components if component.role != "embedding"]
    assert [f"{name}: Building engine" in terminal.getvalue() for name in engines] == [True] * 5


def test_ctrl_c_while_an_engine_is_built_ends_the_build_and_keeps_the_engines_before_it(tmp_path):
    with redirect_stderr(Terminal("decoder.01: Building engine")), pytest.raises(KeyboardInterrupt):
        build_tiny(tmp_path / "bundle", "asymmetric-int4")

    engines = {path.stem for path in (tmp_path / "bundle.partial").glob("*.engine")}
    assert engines == {"vision_encoder", "connector", "decoder.00"}
    assert build_tiny(tmp_path / "bundle", "asymmetric-int4").path.exists()


def test_another_gpu_than_the_one_that_is_there_is_refused(tmp_path):
    with pytest.raises(BackendError, match=r"of compute capability 8\.7, and not for 8\.9"):
        build_tiny(tmp_path / "bundle", "fp16", compute_capabilities=("8.9",))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--int8-route", "implicit"], 1, "has no calibrators, as they ended with TensorRT 10"),
        ([], 0, '"explicit"'),
    ],
)
def test_tensorrt_11_goes_the_explicit_route_only(tmp_path, arguments, code, said):
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "engines.cli", "build", TINY, "--target", "tensorrt", "--out", str(out)]
    command += ["--recipe", "asymmetric-int8", "--images", "rendered:1", *arguments]

    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "SIMULATED_TENSORRT": newest()}
    )

    notes = json.loads((out / "bundle.json").read_text())["build"] if out.exists() else {}
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr + json.dumps(notes.get("int8_route"))


def newest():
    from tests.conformance.bindings import VERSIONS

    return VERSIONS[-1]


@pytest.mark.parametrize(("kind", "layer"), [("vision_encoder", "layers.0"), ("decoder", "layers.1")])
def test_a_layer_that_overflows_float16_stays_float32_where_images_show_it(tmp_path, images, kind, layer):
    loud = LoudCheckpoint(kind)

    kept = build_tiny(tmp_path / "kept", "fp16", loud, images=images)

    nodes = {c.role: c.float32_nodes for c in kept.manifest.components if c.float32_nodes}
    assert nodes.keys() == {kind}
    assert {node.split("/")[0] for node in nodes[kind]} == {layer}
    assert verify(kept.path, loud, list(images)).complaints == ()


@pytest.mark.parametrize(
    ("kind", "words"), [("vision_encoder", "layers.0 of the vision encoder"), ("decoder", "layers.1 of the decoder")]
)
def test_a_layer_that_overflows_float16_is_told_by_verifying(tmp_path, images, kind, words):
    loud = LoudCheckpoint(kind)
    unseen = build_tiny(tmp_path / "unseen", "asymmetric-int4", loud)

    [complaint] = verify(unseen.path, loud, list(images)).complaints

    assert complaint.startswith(f"{words} reaches ")
    assert "ends at 65504: build again with --images" in complaint


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_int8_leaves_out_what_overflows(tmp_path, images, route):
    bundle = build_tiny(
        tmp_path / "bundle", "asymmetric-int8", LoudCheckpoint("decoder"), images=images, int8_route=route
    )
    plan, model = engine_of(bundle, "decoder.00")

    [group] = [component for component in bundle.manifest.components if component.name == "decoder.00"]
    kept = set(group.float32_nodes)
    rounding = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    rounded = set(plan.int8_layers) | {
        n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[0] in rounding
    }
    assert kept
    assert not kept & rounded
    assert len(rounded) >= 4
