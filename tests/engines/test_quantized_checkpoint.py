"""Checkpoints that are quantized already: read as their tools define them, built as they are, refused where unknown."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import CheckpointError, RecipeError
from engines.build import build
from engines.checkpoint import load_checkpoint
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import compare_traces
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.planning.plan import plan_bundle
from engines.quantize.formats.int4 import dequantize, int4_from_codes
from engines.quantize.recipe import load_recipe
from engines.targets import TARGETS
from engines.targets.base import TargetOptions
from tests.engines.checkpoints import write_checkpoint, write_safetensors
from tests.engines.quantized import (
    DECODER,
    TOOLS,
    input_scales,
    packed_tensors,
    quantized_tensors,
    rounded,
    write_quantized,
)
from tests.engines.targets.amx_products import needs_amx, product, write_product
from tests.engines.targets.graph_execution import GraphDecoder
from tests.parity.golden import PROMPT, TOKENS, golden_pixels

UP = f"{DECODER}1.mlp.up_proj"


@pytest.fixture(scope="module")
def tiny():
    return open_checkpoint("synthetic:tiny-llava")


@pytest.mark.parametrize("tool", TOOLS)
def test_matrices_appear_under_their_own_names_with_the_numbers_that_they_stand_for(tiny, tmp_path, tool):
    numbers = write_quantized(TOOLS[tool], tmp_path)

    checkpoint = open_checkpoint(str(tmp_path))

    assert set(checkpoint) == set(tiny)
    for name in checkpoint:
        expected = numbers[name] if name in numbers else tiny.tensor(name)
        assert checkpoint.shape(name) == tiny.shape(name)
        np.testing.assert_array_equal(checkpoint.tensor(name), expected)


def traces(tool, directory, *, arithmetic):
    """Of the bundle of a checkpoint, and of one of the numbers that its matrices stand for, at float16."""
    tiny = open_checkpoint("synthetic:tiny-llava")
    _, numbers = quantized_tensors(TOOLS[tool], tiny)
    write_quantized(TOOLS[tool], directory / "quantized")
    write_checkpoint(tiny, directory / "plain")
    tensors = {name: numbers.get(name, tiny.tensor(name)) for name in tiny}
    write_safetensors(directory / "plain" / "model.safetensors", tensors)
    found = []
    for name, recipe in (("plain", "fp16"), ("quantized", "asymmetric-int4")):
        checkpoint = open_checkpoint(str(directory / name))
        bundle = build(checkpoint, load_recipe(recipe), "onnxruntime", directory / f"{name}-bundle")
        if arithmetic == "float32":
            for path in bundle.path.glob("decoder.*.onnx"):
                compute_in_float32(path)
        tokens = found[0].tokens if found else [0] * TOKENS
        with open_bundle_tracer(bundle, PROMPT) as trace:
            found.append(trace(golden_pixels(checkpoint), tokens))
    return found


def compute_in_float32(path):
    """Let a graph's 4-bit products leave their inputs as they are, which they round to 8 bits otherwise."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    onnx.save(model, path)


@pytest.mark.parametrize("tool", TOOLS)
def test_bundles_compute_with_the_numbers_that_codes_stand_for(tmp_path, tool):
    plain, quantized = traces(tool, tmp_path, arithmetic="float32")

    assert compare_traces([quantized], [plain]).logits_relative_error < 1e-4
    np.testing.assert_array_equal(quantized.logits.argmax(axis=-1), plain.logits.argmax(axis=-1))


def test_bundles_as_they_are_shipped_differ_by_what_rounding_inputs_costs(tmp_path):
    plain, quantized = traces("awq", tmp_path, arithmetic="int8")

    assert compare_traces([quantized], [plain]).logits_relative_error < 0.05


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-amx"])
def test_plans_know_what_codes_scales_and_zero_points_weigh(tmp_path, tool, target):
    write_quantized(TOOLS[tool], tmp_path / "checkpoint")
    checkpoint, recipe = open_checkpoint(str(tmp_path / "checkpoint")), load_recipe("asymmetric-int4")
    graph_bytes = 40_000  # of 4 layers

    planned = {c.name: c.size_bytes for c in plan_bundle(checkpoint, recipe, target).manifest.components}
    options = TargetOptions(context_tokens=128, step_tokens=64)
    plan = plan_bundle(checkpoint, recipe, target)
    [part] = [part for part in plan.parts if part.role == "decoder"]
    written = (
        TARGETS[target].open(options).write_component(tmp_path, part, checkpoint, plan.precisions.components["decoder"])
    )

    assert planned["decoder.00"] <= written.size_bytes < planned["decoder.00"] + graph_bytes
    assert (written.method, written.precision) == (TOOLS[tool].settings["quant_method"], "int4")


def test_a_plan_says_what_stays_and_what_the_recipe_rounds(tmp_path):
    write_quantized(TOOLS["awq"], tmp_path)

    notes = plan_bundle(open_checkpoint(str(tmp_path)), load_recipe("uniform-int4"), "onnxruntime").notes

    assert any("16 matrices in 4 bits by awq, stay as the checkpoint has them" in note for note in notes)
    assert any("left wide, are rounded here, as the recipe uniform-int4 says" in note for note in notes)


def test_a_float16_recipe_widens_codes_and_says_so(tmp_path):
    write_quantized(TOOLS["awq"], tmp_path)

    [note] = plan_bundle(open_checkpoint(str(tmp_path)), load_recipe("fp16"), "onnxruntime").notes

    assert "16 matrices in 4 bits by awq, are widened to float16" in note


@pytest.mark.parametrize("recipe", ["asymmetric-int4-gptq", "asymmetric-int4-awq", "nf4", "asymmetric-int8"])
def test_a_recipe_that_would_round_codes_a_second_time_is_refused(tmp_path, recipe):
    write_quantized(TOOLS["gptq"], tmp_path)

    with pytest.raises(RecipeError, match=r"in 4 bits by gptq already.*take the model that it was quantized from"):
        plan_bundle(open_checkpoint(str(tmp_path)), load_recipe(recipe), "onnxruntime")


@pytest.mark.parametrize(
    ("tool", "settings", "reason"),
    [
        ("awq", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'.*expected float16"),
        ("awq", {"quant_method": "fp8"}, "'fp8'.*expected float16"),
        ("awq", {"quant_method": "hqq"}, "'hqq'"),
        ("awq", {"quant_method": None}, "quantization_config of None"),
        ("awq", {"bits": 8}, "bits 8; expected 4"),
        ("awq", {"version": "gemv"}, "version 'gemv'; expected 'gemm'"),
        ("awq", {"group_size": 48}, "scales .* in groups of 48"),
        ("awq", {"group_size": None}, "group_size None"),
        ("gptq", {"bits": 3}, "bits 3; expected 4"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ("gptq", {"dynamic": {"+:.*down_proj": {"bits": 8}}}, "dynamic"),
        ("gptq", {"group_size": 64}, "in groups of 64"),
        ("compressed-tensors", {"format": "marlin-24"}, "format 'marlin-24'; expected 'pack-quantized'"),
        ("compressed-tensors", {"format": "float-quantized"}, "format 'float-quantized'"),
        ("compressed-tensors", {"config_groups": {}}, "config_groups"),
        ("compressed-tensors", {"transform_config": {"r1": {}}}, "transform_config"),
        ("modelopt", {"quant_algo": "NVFP4"}, "quant_algo 'NVFP4'; expected 'W4A16_AWQ'"),
        ("modelopt", {"quant_algo": "FP8"}, "quant_algo 'FP8'"),
        ("modelopt", {"has_zero_point": True}, "has_zero_point True"),
    ],
)
def test_settings_of_what_is_not_read_here_are_refused(tmp_path, tool, settings, reason):
    write_quantized(TOOLS[tool], tmp_path, settings=settings)

    with pytest.raises(CheckpointError, match=reason):
        read_codes(tmp_path)


def read_codes(path):
    return open_checkpoint(str(path)).int4(f"{UP}.weight").matrix


def drop(ending):
    return lambda tensors: tensors.pop(f"{UP}.{ending}")


def replaced(ending, change):
    def apply(tensors):
        tensors[f"{UP}.{ending}"] = change(tensors[f"{UP}.{ending}"])

    return apply


@pytest.mark.parametrize(
    ("tool", "changed", "reason"),
    [
        ("awq", drop("scales"), "scales is missing"),
        ("awq", drop("qzeros"), "qzeros is missing"),
        ("awq", drop("qweight"), "of no matrix of 4 bits"),
        ("awq", replaced("scales", lambda scales: scales[:1]), r"scales .* in groups of 32"),
        ("awq", replaced("scales", lambda scales: -scales), "of which float16 cannot hold one"),
        ("awq", replaced("scales", lambda scales: scales * np.float16(np.nan)), "of which float16 cannot hold one"),
        ("awq", replaced("qweight", lambda words: words.astype(np.int64)), "qweight is int64"),
        ("gptq", replaced("g_idx", lambda groups: groups + np.int32(1)), r"g_idx .* from 1 to \d+, for \d+ groups"),
        ("gptq", replaced("g_idx", lambda groups: groups - np.int32(1)), r"g_idx .* from -1 to \d+, for"),
        ("gptq", replaced("g_idx", lambda groups: groups[::-1].copy()), "desc_act"),
        ("gptq", replaced("qzeros", lambda words: words | np.int32(15)), "16 to some libraries and 0 to others"),
        ("compressed-tensors", drop("weight_scale"), "weight_scale is missing"),
        ("compressed-tensors-asymmetric", drop("weight_zero_point"), "weight_zero_point is missing"),
        ("compressed-tensors", replaced("weight_shape", lambda sizes: sizes + 8), "weight_packed is"),
        ("modelopt", drop("weight"), "weight is missing"),
    ],
)
def test_tensors_that_make_no_matrix_are_refused(tmp_path, tool, changed, reason):
    write_quantized(TOOLS[tool], tmp_path, changed=changed)

    with pytest.raises(CheckpointError, match=reason):
        read_codes(tmp_path)


def test_a_group_whose_scale_is_zero_is_zero(tmp_path):
    def empty(scales):
        scales = scales.copy()
        scales[0, :] = 0
        return scales

    write_quantized(TOOLS["awq"], tmp_path, changed=replaced("scales", empty))

    found = read_codes(tmp_path)

    assert (found.scales > 0).all()
    assert not dequantize(found)[:, :32].any()
    assert dequantize(found)[:, 32:].any()


def test_scales_of_inputs_that_differ_within_a_stack_are_refused(tmp_path):
    def scaled(tensors):
        tensors[f"{UP}.pre_quant_scale"] = input_scales(tensors[f"{UP}.weight"].shape[1])

    write_quantized(TOOLS["modelopt"], tmp_path / "checkpoint", changed=scaled)
    checkpoint = open_checkpoint(str(tmp_path / "checkpoint"))

    with pytest.raises(CheckpointError, match=r"gate_proj.*up_proj multiply the same inputs by different scales"):
        build(checkpoint, load_recipe("asymmetric-int4"), "onnxruntime", tmp_path / "bundle")


def test_modelopts_own_file_says_it_too(tmp_path):
    tool = TOOLS["modelopt"]
    numbers = write_quantized(tool, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {key: config["quantization_config"].pop(key) for key in ("quant_algo", "group_size", "has_zero_point")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": own}))

    checkpoint = open_checkpoint(str(tmp_path))

    np.testing.assert_array_equal(checkpoint.tensor(f"{UP}.weight"), numbers[f"{UP}.weight"])


def test_whoever_reads_plain_numbers_alone_refuses_codes(tmp_path):
    write_quantized(TOOLS["awq"], tmp_path)

    with pytest.raises(CheckpointError, match=r"quantized.*'awq'"):
        load_checkpoint(tmp_path)


def with_zero_points(rows, columns, block_size):
    """A matrix whose zero points are anything from 0 to 15."""
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.02, (rows, columns // block_size)).astype(np.float16)
    return int4_from_codes(codes, scales, rng.integers(0, 16, scales.shape).astype(np.uint8), block_size)


def inputs_of(rows, columns):
    return np.random.default_rng(5).standard_normal((rows, columns)).astype(np.float16)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("columns", [64, 384])
def test_tensorrts_graph_splits_zero_points_off_exactly(tmp_path, rows, columns):
    matrix, inputs = with_zero_points(24, columns, 32), inputs_of(rows, columns)
    scales = np.resize(np.array([0.5, 1, 2], np.float32), columns)
    lowering = TensorRTLowering()
    with Graph(tmp_path / "product.onnx") as graph:
        x = graph.input("x", "float16", (1, "T", columns))
        graph.output("y", "float16", (1, "T", 24), lowering.linear(graph, x, Linear("matrix", matrix, None, scales)))
        graph.save()

    engine = OnnxRuntimeBackend(threads=1).load(tmp_path / "product.onnx")
    found = engine.evaluate({"x": inputs[None]})["y"][0]
    engine.close()

    expected = (inputs * scales) @ dequantize(matrix).T
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())  # ONNX Runtime rounds inputs


@needs_amx
@pytest.mark.parametrize("block_size", [32, 64, 128])  # the first by ONNX Runtime's own operator
def test_operators_for_amx_split_zero_points_off(tmp_path, block_size):
    matrix, inputs = with_zero_points(40, 256, block_size), inputs_of(3, 256).astype(np.float32)

    found = product(write_product(tmp_path / "product.onnx", matrix), inputs)

    expected = inputs @ dequantize(matrix).T
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())  # inputs are rounded


GOLDEN = Path(__file__).parents[1] / "golden" / "quantized-matrices.npz"


@pytest.mark.parametrize("tool", ["awq", "gptq", "compressed-tensors", "compressed-tensors-asymmetric", "modelopt"])
def test_a_matrix_that_the_tool_itself_packed_has_the_numbers_that_it_reads(tiny, tmp_path, tool):
    with np.load(GOLDEN) as arrays:  # tests/parity/make_quantized_golden.py
        golden = {name.partition("/")[2]: arrays[name] for name in arrays if name.startswith(f"{tool}/")}
    expected = golden.pop("numbers")
    settings = {"checkpoint_format": "gptq_v2"} if tool == "gptq" else {}

    def replace_all(tensors):
        for name in [name for name in tensors if name.startswith(f"{UP}.")]:
            del tensors[name]
        tensors.update({f"{UP}.{name}": array for name, array in golden.items()})

    write_quantized(TOOLS[tool], tmp_path, settings=settings, changed=replace_all)

    found = open_checkpoint(str(tmp_path)).tensor(f"{UP}.weight")

    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)  # some tools multiply in float16


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_embedding_in_4_bits_stays_so_unless_it_has_zero_points(tiny, tmp_path, symmetric):
    name = "language_model.model.embed_tokens"
    matrix = rounded(tiny.tensor(f"{name}.weight"), 32, symmetric=symmetric)

    def with_embedding(tensors):
        del tensors[f"{name}.weight"]
        tensors.update(packed_tensors(name, matrix))

    tool = TOOLS["compressed-tensors" if symmetric else "compressed-tensors-asymmetric"]
    write_quantized(tool, tmp_path / "checkpoint", changed=with_embedding)
    checkpoint, recipe = open_checkpoint(str(tmp_path / "checkpoint")), load_recipe("language-int4")

    if not symmetric:
        with pytest.raises(RecipeError, match="choose a recipe with the embedding in float16"):
            plan_bundle(checkpoint, recipe, "onnxruntime")
        return
    bundle = build(checkpoint, recipe, "onnxruntime", tmp_path / "bundle")
    steps = np.fromfile(bundle.path / "embedding.q4", np.uint8)
    steps = np.stack([steps & 15, steps >> 4], axis=-1).reshape(matrix.codes.shape)
    np.testing.assert_array_equal(steps, matrix.codes)
    np.testing.assert_array_equal(np.fromfile(bundle.path / "embedding.scales", np.float16), matrix.scales.reshape(-1))


@pytest.mark.parametrize("tool", ["awq", "modelopt"])  # zero points, and scales of inputs
def test_tensorrts_graphs_compute_with_the_numbers_that_codes_stand_for(tiny, tmp_path, tool):
    numbers = write_quantized(TOOLS[tool], tmp_path / "quantized")
    write_checkpoint(tiny, tmp_path / "plain")
    tensors = {name: numbers.get(name, tiny.tensor(name)) for name in tiny}
    write_safetensors(tmp_path / "plain" / "model.safetensors", tensors)
    found = []
    for name, recipe in (("plain", "fp16"), ("quantized", "asymmetric-int4")):
        checkpoint = open_checkpoint(str(tmp_path / name))
        precisions = plan_bundle(checkpoint, load_recipe(recipe), "tensorrt").precisions
        (tmp_path / recipe).mkdir()
        runner = GraphDecoder(tmp_path / recipe, checkpoint, precisions, PROMPT.before_image)
        found.append(runner.trace(golden_pixels(checkpoint), PROMPT.after_image, [0] * TOKENS))

    logits = [trace.logits.astype(np.float32) for trace in found]

    np.testing.assert_allclose(logits[1], logits[0], atol=2e-3 * np.abs(logits[0]).max())
