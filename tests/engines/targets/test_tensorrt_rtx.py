"""TensorRT for RTX compiles every graph that the emitters produce, without a GPU: a real parser, optimizer and plan."""

import json
from pathlib import Path

import pytest

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BackendError
from edge_runtime.memory.plan import plan_memory
from engines.build import build
from engines.calibration.images import open_images
from engines.calibration.model import open_model_runner
from engines.cli import main
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.onnx.builder import Graph
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import FLOAT16, known_recipes, load_recipe
from engines.targets import TARGETS
from engines.targets.base import Calibration, TargetOptions
from engines.targets.tensorrt_compiler import Compiler
from tests.engines.builds import WatchedCheckpoint
from tests.engines.checkpoints import LoudCheckpoint, tiny_modern, tiny_variant
from tests.engines.targets.test_int8 import everything_int8, feed_forward_int8
from tests.engines.targets.test_products import products_int8

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="pip install '.[tensorrt-rtx]', or make engines", exc_type=ImportError
)
TINY = "synthetic:tiny-llava"
REFERENCE = str(Path(__file__).parents[3] / "engines" / "reference" / "checkpoint")
RECIPES = [recipe for recipe in known_recipes() if not TARGETS["tensorrt-rtx"].lacks(load_recipe(recipe))]
UNCALIBRATED = ["fp16", "asymmetric-int4", "uniform-int4"]
OF_EVERY_FORM = [*UNCALIBRATED, "asymmetric-int8"]  # other recipes choose other numbers for the same graphs


@pytest.mark.parametrize(
    ("checkpoint", "recipe"),
    [(open_checkpoint(REFERENCE), recipe) for recipe in OF_EVERY_FORM]
    + [(tiny_variant(), recipe) for recipe in OF_EVERY_FORM]
    + [(tiny_modern(), recipe) for recipe in ("fp16", "asymmetric-int4")]
    + [
        (open_checkpoint(f"synthetic:{name}"), recipe)
        for name in (
            "tiny-llava-next",
            "tiny-smolvlm",
            "tiny-internvl",
            "tiny-internvl-qwen3",
            "tiny-qwen3-vl",
            "tiny-qwen2.5-vl",
        )
        for recipe in ("fp16", "asymmetric-int4")
    ]
    + [(open_checkpoint(TINY), recipe) for recipe in RECIPES if recipe not in OF_EVERY_FORM],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_recipe_compiles(checkpoint, recipe, tmp_path):
    images = None if recipe in UNCALIBRATED else open_images("rendered:2")
    recipe, out = load_recipe(recipe), tmp_path / "bundle"
    groups = 3_000_000 if checkpoint.name == "reference" else 300_000  # parameters, for two groups or three
    build(checkpoint, recipe, "tensorrt-rtx", out, images=images, group_parameters=groups)

    manifest = load_bundle(tmp_path / "bundle", target="tensorrt-rtx", verify_hashes=True).manifest
    assert manifest.build["tensorrt"] == trt.__version__
    assert manifest.build["compute_capability"] == "8.6,8.9,12.0"
    assert {file.path for component in manifest.components for file in component.files} >= {
        "vision_encoder.engine", "connector.engine", "decoder.00.engine", "decoder.01.engine", "lm_head.engine"
    }  # fmt: skip
    assert not any(path.is_dir() for path in (tmp_path / "bundle").iterdir())  # graphs are gone


@pytest.mark.parametrize(
    ("recipe_at", "method"),
    [(everything_int8, "max"), (everything_int8, "smooth-twin-max"), (feed_forward_int8, "max")],
)
def test_int8_compiles_biases_included(tmp_path, recipe_at, method):
    recipe, images = load_recipe(recipe_at(tmp_path / "int8.yaml", method)), open_images("rendered:2")

    manifest = build(open_checkpoint(TINY), recipe, "tensorrt-rtx", tmp_path / "bundle", images=images).manifest

    assert manifest.build["int8_route"] == "explicit"
    assert {c.role: c.precision for c in manifest.components}["vision_encoder"] == "int8"


@pytest.mark.parametrize("method", ["max", "twin-max"])
def test_what_attention_multiplies_compiles_in_int8(tmp_path, method):
    recipe, images = load_recipe(products_int8(tmp_path / "int8.yaml", method)), open_images("rendered:2")

    bundle = build(open_checkpoint(TINY), recipe, "tensorrt-rtx", tmp_path / "bundle", images=images)

    assert (
        load_bundle(bundle.path, target="tensorrt-rtx", verify_hashes=True).manifest.build["int8_route"] == "explicit"
    )


@pytest.mark.parametrize(("kind", "layer"), [("vision_encoder", "layers.0"), ("decoder", "layers.1")])
def test_a_layer_that_overflows_float16_compiles_in_float32(kind, layer, tmp_path):
    images = open_images("rendered:2")

    built = build(LoudCheckpoint(kind), load_recipe("asymmetric-int8"), "tensorrt-rtx", tmp_path / "b", images=images)

    kept = {c.role: {node.split("/")[0] for node in c.float32_nodes} for c in built.manifest.components}
    assert kept[kind] == {layer}


def test_the_command_builds_for_the_gpu_that_it_is_told(tmp_path, capsys):
    out = tmp_path / "bundle"

    arguments = ["build", TINY, "--target", "tensorrt-rtx", "--compute-capability", "8.9", "--out", str(out), "--json"]
    assert main(arguments) == 0

    assert json.loads(capsys.readouterr().out)["bundle"] == str(out)
    assert load_bundle(out).manifest.build["compute_capability"] == "8.9"


def test_a_gpu_that_it_cannot_build_for_is_refused_with_those_that_it_can(tmp_path, capsys):
    arguments = ["build", TINY, "--target", "tensorrt-rtx", "--compute-capability", "8.7", "--out", str(tmp_path / "b")]

    assert main(arguments) == 1

    assert "builds for no GPU of compute capability 8.7; it builds for 12.0, 12.1, 7.5" in capsys.readouterr().err


def test_an_operator_that_tensorrt_does_not_know_is_named_with_its_layer(tmp_path):
    with Graph(tmp_path / "odd.onnx") as graph:
        x = graph.input("x", "float16", (1, 4))
        graph.scope = "layers.7/"
        graph.output("y", "float16", (1, 4), graph.node("com.microsoft.QuickGelu", [x]))
        graph.save()

    with pytest.raises(BackendError, match=r"does not take the node 'layers.7/QuickGelu_0' \(QuickGelu\) of odd.onnx"):
        Compiler(trt, ("8.6",)).compile(tmp_path / "odd.onnx", tmp_path / "odd.engine", [])

    assert not (tmp_path / "odd.engine").exists()


def test_a_shape_that_contradicts_its_graph_is_told_in_tensorrts_words(tmp_path):
    with Graph(tmp_path / "odd.onnx") as graph:
        x = graph.input("x", "float16", (1, "T"))
        graph.output("y", "float16", (1, "T"), graph.node("Neg", [x]))
        graph.save()

    with pytest.raises(BackendError, match=r"builds no engine of odd: .*profile"):
        Compiler(trt, ("8.6",)).compile(tmp_path / "odd.onnx", tmp_path / "odd.engine", [])


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path):
    recipe, out = load_recipe("asymmetric-int4"), tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        build(WatchedCheckpoint(interrupt_at="language_model.lm_head.weight"), recipe, "tensorrt-rtx", out)
    first = (tmp_path / "bundle.partial" / "decoder.00.engine").stat().st_mtime_ns
    assert not (tmp_path / "bundle.partial" / "lm_head.graph").exists()

    second = WatchedCheckpoint()
    build(second, recipe, "tensorrt-rtx", out)

    assert not any("vision_tower" in name or "layers" in name for name in second.read)
    assert (out / "decoder.00.engine").stat().st_mtime_ns == first


def test_another_gpu_does_not_take_over_engines(tmp_path):
    options = TargetOptions(1024, 300, ("8.6",))

    versions = [TARGETS["tensorrt-rtx"].open(o).versions for o in (options, TargetOptions(1024, 300, ("8.9",)))]

    assert versions[0] != versions[1]


# Those of a component are the same in several recipes.
AT_13B = {
    (name, load_recipe(recipe).components[name.partition(".")[0]]): recipe
    for recipe in UNCALIBRATED
    for name in ("vision_encoder", "connector", "embedding", "decoder.00", "lm_head")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "recipe"),
    [(name, precision, recipe) for (name, precision), recipe in AT_13B.items()],
    ids=[f"{name}-{precision.dtype}" for name, precision in AT_13B],
)
def test_a_component_of_13b_weighs_what_the_memory_plan_predicts(name, precision, recipe, tmp_path):
    checkpoint = open_checkpoint("synthetic:llava-1.5-13b")
    plan = plan_bundle(checkpoint, load_recipe(recipe), "tensorrt-rtx")
    [part] = [part for part in plan.parts if part.name == name]
    target = TARGETS["tensorrt-rtx"].open(TargetOptions(2048, 704))

    component = target.write_component(tmp_path, part, checkpoint, precision)

    [planned] = [component for component in plan.manifest.components if component.name == name]
    assert component.size_bytes == pytest.approx(planned.size_bytes, rel=0.03)
    if part.role == "embedding":  # mapped: the memory plan counts the pages that a context can touch
        return
    memory_plan = plan_memory(plan.manifest, 2048)
    predicted = memory_plan.item(part.role).planned_bytes
    groups = sum(other.role == part.role for other in plan.parts)
    assert component.size_bytes * groups == pytest.approx(predicted, rel=0.03)


@pytest.mark.slow
def test_a_layer_group_of_13b_in_int8_weighs_what_was_planned(tmp_path):
    checkpoint, precisions = open_checkpoint("synthetic:llava-1.5-13b"), load_recipe("asymmetric-int8")
    plan = plan_bundle(checkpoint, precisions, "tensorrt-rtx")
    target = TARGETS["tensorrt-rtx"].open(TargetOptions(2048, 704, has_int8=True))
    encoder, connector, group = (
        next(part for part in plan.parts if part.name == name) for name in ("vision_encoder", "connector", "decoder.00")
    )

    with open_model_runner(checkpoint, plan.model, open_images("rendered:1"), tmp_path) as runner:
        for part in (encoder, connector):
            with Graph(tmp_path / f"{part.name}.onnx") as graph:
                part.emit(graph, TensorRTLowering(), checkpoint, FLOAT16)
                graph.save()
            runner.skip(tmp_path / f"{part.name}.onnx")
        calibration = Calibration(runner, tmp_path / "calibration")
        component = target.write_component(tmp_path, group, checkpoint, precisions.components["decoder"], calibration)

    [planned] = [component for component in plan.manifest.components if component.name == "decoder.00"]
    assert component.size_bytes == pytest.approx(planned.size_bytes, rel=0.03)
