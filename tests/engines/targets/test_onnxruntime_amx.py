"""The operators for AMX against NumPy, the order in which they read a matrix, and bundles that are made for them."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends.amx import DOMAIN, find_operators, has_amx, has_operators
from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.budget import plan_ledger
from edge_runtime.errors import BackendError, BundleTargetError
from engines.build import build
from engines.calibration.images import open_images
from engines.cli import main
from engines.execution import open_bundle_tracer
from engines.fidelity import compare_traces
from engines.graphs.builder import Graph
from engines.graphs.dialect import CausalAttention
from engines.graphs.weights import Linear
from engines.plan import plan_bundle
from engines.precision import load_recipe
from engines.quantize.int4 import Int4Matrix, dequantize
from engines.quantize.rtn import quantize_rtn
from engines.synthetic import open_checkpoint
from engines.targets.onnxruntime_amx import AmxDialect, cache_dtype, float16_tiles, int4_scales, int4_tiles
from tests.parity.golden import PROMPT, golden_pixels, load_golden, write_golden_checkpoint

needs_amx = pytest.mark.skipif(
    not has_operators(), reason="no processor with AMX here, or no operators compiled for it"
)

# Rows of one, of less than a tile, of whole tiles, and of one more than one and two of them.
ROWS = (1, 2, 15, 16, 17, 32, 33, 50)
SHAPES = [(32, 64, 64), (96, 128, 64), (96, 384, 128), (352, 256, 128)]  # N, K, block


def weights_of(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float16)


def write_product(path, weight, bias=None, **sizes):
    rows, columns = weight.shape if isinstance(weight, np.ndarray) else (weight.rows, weight.columns)
    with Graph(path) as graph:
        x = graph.input("x", "float32", (1, "T", sizes.get("columns", columns)))
        y = AmxDialect().linear(graph, x, Linear("product", weight, bias))
        graph.output("y", "float32", (1, "T", rows), y)
        graph.save()
    return path


def product(path, x, threads=2):
    engine = OnnxRuntimeBackend(threads).load(path)
    y = engine.evaluate({"x": x[None]})["y"][0]
    engine.close()
    return y


def in_steps(x, block):
    """``x`` (T, K) as 8 bits of every block leave it."""
    blocks = x.reshape(len(x), -1, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True).astype(np.float32) / np.float32(127)
    return (np.rint(blocks / scales) * scales).reshape(x.shape).astype(np.float64)


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
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_of_4_bits_is_that_of_rows_in_8_bits_a_block(shape, has_bias, tmp_path):
    rows, columns, block = shape
    matrix = quantize_rtn(weights_of(rows, columns), block)
    bias = weights_of(1, rows, 1)[0] if has_bias else None
    path = write_product(tmp_path / "product.onnx", matrix, bias)

    for count in ROWS:
        x = np.random.default_rng(count).normal(size=(count, columns)).astype(np.float32)
        expected = in_steps(x, block) @ dequantize(matrix).T.astype(np.float64) + (0 if bias is None else bias)
        np.testing.assert_allclose(product(path, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@needs_amx
@pytest.mark.parametrize("shape", [(32, 32), (96, 64), (352, 544), (32, 1056)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_of_float16_is_a_hundred_times_as_exact_as_float16(shape, has_bias, tmp_path):
    weight = weights_of(*shape)
    bias = weights_of(1, shape[0], 1)[0] if has_bias else None
    path = write_product(tmp_path / "product.onnx", weight, bias)

    for count in ROWS:
        x = np.random.default_rng(count).normal(size=(count, shape[1])).astype(np.float32)
        expected = x @ weight.T.astype(np.float64) + (0 if bias is None else bias)
        bound = np.abs(x) @ np.abs(weight.T.astype(np.float64)) * 2**-16  # of what is left out, at the most
        assert (np.abs(product(path, x) - expected) <= bound + 1e-6).all()


@needs_amx
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_columns_of_a_product(threads, tmp_path):
    matrix, weight = quantize_rtn(weights_of(1056, 128), 64), weights_of(1056, 128)
    x = np.random.default_rng(0).normal(size=(40, 128)).astype(np.float32)

    for index, one in enumerate((matrix, weight)):
        path = write_product(tmp_path / f"{index}.onnx", one)
        for rows in (x, x[:1]):
            np.testing.assert_array_equal(product(path, rows, threads), product(path, rows, 1))


@needs_amx
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 20])
def test_a_row_that_is_no_number_spoils_itself_alone(value, count, tmp_path):
    x = np.ones((count, 128), np.float32)
    x[0, 70] = value

    for index, weight in enumerate((quantize_rtn(weights_of(64, 128), 64), weights_of(64, 128))):
        y = product(write_product(tmp_path / f"{index}.onnx", weight), x)
        assert not np.isfinite(y[0]).any()
        assert np.isfinite(y[1:]).all()


@needs_amx
def test_zeros_and_extremes_are_products_as_others(tmp_path):
    matrix = quantize_rtn(weights_of(32, 128), 64)
    sums = dequantize(matrix).sum(axis=1, dtype=np.float64)
    magnitudes = np.array([0, 1e-45, 1e-38, 1e-30, 1e30])

    y = product(write_product(tmp_path / "product.onnx", matrix), np.full((5, 128), magnitudes[:, None], np.float32))

    np.testing.assert_allclose(y, magnitudes[:, None] * sums, rtol=1e-3, atol=1e-34)


@needs_amx
def test_no_rows_are_no_products(tmp_path):
    for index, weight in enumerate((quantize_rtn(weights_of(32, 64), 64), weights_of(32, 64))):
        path = write_product(tmp_path / f"{index}.onnx", weight)
        assert product(path, np.empty((0, 64), np.float32)).shape == (0, 32)


@needs_amx
@pytest.mark.parametrize(
    "weight", [quantize_rtn(weights_of(32, 128), 64), weights_of(32, 128)], ids=["int4", "float16"]
)
def test_rows_of_another_width_are_refused(weight, tmp_path):
    path = write_product(tmp_path / "product.onnx", weight, columns=64)

    with pytest.raises(BackendError, match="size is not the node's"):
        product(path, np.ones((2, 64), np.float32))


def write_node(path, operator, inputs, outputs, constants=(), **attributes):
    """A graph of one node, whatever sense it makes; ``inputs`` and ``outputs`` have shapes by name."""
    with Graph(path) as graph:
        names = [graph.input(name, "float32", shape) for name, shape in inputs.items()]
        names += [graph.weight(f"constant.{index}", array) for index, array in enumerate(constants)]
        made = graph.nodes(f"{DOMAIN}.{operator}", names, [f"{name}.made" for name in outputs], **attributes)
        for name, value in zip(outputs, made, strict=True):
            graph.output(name, "float32", outputs[name], value)
        graph.save()
    return path


@needs_amx
@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("MatMulFloat16", [np.zeros(64 * 32, np.float16), np.zeros(1, np.float32)], {"K": 64, "N": 32}),
        ("MatMulFloat16", [np.zeros(64 * 16, np.float16)], {"K": 64, "N": 32}),
        ("MatMulFloat16", [np.zeros(64 * 32, np.float16)], {"K": 64, "N": 33}),
        ("MatMulFloat16", [np.zeros(64 * 32, np.float16)], {"K": 64, "N": 0}),
        ("MatMulFloat16", [np.zeros(64 * 32, np.float16)], {"K": -64, "N": 32}),
        ("MatMulInt4", [np.zeros(64 * 16, np.uint8), np.zeros(31, np.float16)], {"K": 64, "N": 32, "block_size": 64}),
        ("MatMulInt4", [np.zeros(64 * 16, np.uint8), np.zeros(64, np.float16)], {"K": 64, "N": 32, "block_size": 32}),
        ("AddRmsNorm", [np.zeros(63, np.float32)], {"epsilon": 1e-5}),
        ("AddRmsNorm", [np.zeros(64, np.float32), np.zeros((1, 2, 64), np.float32)], {"epsilon": 1e-5}),
    ],
)
def test_a_node_that_contradicts_itself_is_refused(operator, constants, attributes, tmp_path):
    shape = (1, 2, attributes.get("N", 64))
    path = write_node(tmp_path / "node.onnx", operator, {"x": (1, 2, 64)}, {"y": shape}, constants, **attributes)

    with pytest.raises(BackendError):
        OnnxRuntimeBackend(1).load(path).evaluate({"x": np.ones((1, 2, 64), np.float32)})


@needs_amx
def test_operators_that_are_no_library_are_refused_and_no_business_of_other_graphs(tmp_path, monkeypatch):
    plain, ours = tmp_path / "plain.onnx", tmp_path / "ours.onnx"
    with Graph(plain) as graph:
        graph.output("y", "float32", (1,), graph.node("Neg", [graph.input("x", "float32", (1,))]))
        graph.save()
    write_product(ours, weights_of(32, 32))
    (tmp_path / "empty.so").touch()
    monkeypatch.setattr("edge_runtime.backends.onnxruntime.find_operators", lambda: tmp_path / "empty.so")

    assert OnnxRuntimeBackend(1).load(plain).evaluate({"x": np.ones(1, np.float32)})["y"] == -1
    with pytest.raises(BackendError, match=r"cannot load ours.onnx"):
        OnnxRuntimeBackend(1).load(ours)


@pytest.mark.skipif(not (has_amx() and shutil.which("g++")), reason="no processor with AMX here, or no g++")
def test_operators_are_compiled_from_the_sources_that_are_here():
    library = find_operators()

    sources = [*library.parent.glob("*.cpp"), *library.parent.glob("*.hpp")]
    assert library.stat().st_mtime > max(source.stat().st_mtime for source in sources), "pip install --no-deps -e ."


@needs_amx
def test_matrices_of_other_sizes_are_multiplied_as_everywhere(tmp_path):
    for index, (rows, columns) in enumerate([(32, 72), (24, 64)]):
        for bits, weight in ((4, quantize_rtn(weights_of(rows, columns), 64)), (16, weights_of(rows, columns))):
            values = dequantize(weight) if isinstance(weight, Int4Matrix) else weight.astype(np.float32)
            y = product(write_product(tmp_path / f"{index}.{bits}.onnx", weight), np.ones((3, columns), np.float32))
            np.testing.assert_allclose(y[0], values.sum(axis=1), rtol=1e-2, atol=1e-2)


@needs_amx
def test_a_matrix_is_used_where_its_file_is_mapped(tmp_path):
    weight = weights_of(4096, 2048)
    path = Path(os.path.realpath(write_product(tmp_path / "product.onnx", weight)))
    product(write_product(tmp_path / "small.onnx", weights_of(32, 32)), np.ones((1, 32), np.float32))
    process = psutil.Process()
    before = process.memory_info()

    engine = OnnxRuntimeBackend(1).load(path)
    loaded = [m for m in process.memory_maps(grouped=False) if m.path == f"{path}.data"]
    engine.evaluate({"x": np.ones((1, 1, 2048), np.float32)})
    after = process.memory_info()
    engine.close()

    assert sum(mapping.rss for mapping in loaded) >= weight.nbytes  # there before the first frame
    own = (after.rss - after.shared) - (before.rss - before.shared)
    assert own < weight.nbytes / 4


def write_attention(path, heads, kv_heads, size, positions=200):
    angles = np.outer(np.arange(positions), 100.0 ** -(np.arange(0, size, 2) / size))
    sizes = CausalAttention(heads, kv_heads, size, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    with Graph(path) as graph:
        qkv = graph.input("qkv", "float32", (1, "T", (heads + 2 * kv_heads) * size))
        context = AmxDialect().causal_attention(graph, qkv, 0, sizes)
        graph.output("context", "float32", (1, "T", heads * size), context)
        graph.save()
    return sizes


def attention(qkv, sizes):
    """What rows ``qkv`` (T, (H + 2 Hkv) d) attend to, from the first position on: (T, H d)."""
    size, first = sizes.head_dim, sizes.num_heads
    rows = qkv.reshape(len(qkv), -1, size).transpose(1, 0, 2).astype(np.float64)  # (H + 2 Hkv, T, d)
    cos, sin = sizes.cos[: len(qkv)].astype(np.float64), sizes.sin[: len(qkv)].astype(np.float64)
    low, high = np.split(rows, 2, axis=2)
    turned = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)
    shared = first // sizes.num_kv_heads
    keys = turned[first : first + sizes.num_kv_heads].astype(np.float16).astype(np.float64).repeat(shared, axis=0)
    values = rows[first + sizes.num_kv_heads :].astype(np.float16).astype(np.float64).repeat(shared, axis=0)
    scores = turned[:first] @ keys.transpose(0, 2, 1) / np.sqrt(size)
    scores[:, np.triu(np.ones((len(qkv), len(qkv)), bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    return (shares / shares.sum(axis=2, keepdims=True) @ values).transpose(1, 0, 2).reshape(len(qkv), -1)


class Attention:
    """An attention over a cache of its own, in place."""

    def __init__(self, path, heads, kv_heads, size, capacity=128):
        self.sizes = write_attention(path, heads, kv_heads, size)
        self.engine = OnnxRuntimeBackend(2).load(path)
        self.cache = [np.full((1, kv_heads, capacity, size), np.nan, np.float16) for _ in range(2)]
        self.length = 0

    def __call__(self, qkv):
        context = np.zeros((1, len(qkv), self.sizes.num_heads * self.sizes.head_dim), np.float32)
        self.length += len(qkv)
        inputs = {"qkv": qkv[None], "past_key.0": self.cache[0], "past_value.0": self.cache[1]}
        inputs |= {"seqlens_k": np.array([self.length - 1], np.int32)}
        inputs |= {"total_sequence_length": np.array([self.length], np.int32)}
        present = {"present_key.0": self.cache[0], "present_value.0": self.cache[1]}
        self.engine.bind(inputs, {"context": context, **present})()
        return context[0]


@needs_amx
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(2, 2, 32), (4, 2, 64), (3, 1, 96), (2, 2, 128), (1, 1, 160)])
@pytest.mark.parametrize("steps", [(1, 1, 1), (5, 1, 1), (33, 64, 1), (16, 2, 31, 1, 70)])
def test_attention_over_a_growing_cache_is_that_over_all_rows(heads, kv_heads, size, steps, tmp_path):
    qkv = np.random.default_rng(0).normal(size=(sum(steps), (heads + 2 * kv_heads) * size)).astype(np.float32)
    attend = Attention(tmp_path / "attention.onnx", heads, kv_heads, size)

    ends = np.cumsum(steps)
    found = np.concatenate([attend(qkv[end - step : end]) for step, end in zip(steps, ends, strict=True)])

    np.testing.assert_allclose(found, attention(qkv, attend.sizes), atol=3e-4)  # a float16 of the keys, either way


@needs_amx
def test_scores_may_be_large_and_far_apart(tmp_path):
    qkv = np.random.default_rng(0).normal(size=(40, 3 * 64)).astype(np.float32)
    qkv[:, :64] *= 300
    attend = Attention(tmp_path / "attention.onnx", 1, 1, 64)

    found = attend(qkv)

    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.median(np.abs(found - attention(qkv, attend.sizes))), 0, atol=1e-2)


@needs_amx
def test_without_a_binding_the_past_is_left_and_the_present_has_all(tmp_path):
    write_attention(tmp_path / "attention.onnx", 2, 1, 32)
    engine = OnnxRuntimeBackend(1).load(tmp_path / "attention.onnx")
    past = np.ones((1, 1, 8, 32), np.float16)
    lengths = {"seqlens_k": np.array([4], np.int32), "total_sequence_length": np.array([5], np.int32)}

    found = engine.evaluate(
        {"qkv": np.zeros((1, 2, 128), np.float32), "past_key.0": past, "past_value.0": past, **lengths}
    )

    assert (past == 1).all()
    assert (found["present_value.0"][0, 0] == [[1]] * 3 + [[0]] * 2 + [[1]] * 3).all()
    np.testing.assert_allclose(found["context"][0], np.array([[3 / 4], [3 / 5]]) * np.ones(64), rtol=1e-5)


@needs_amx
def test_a_cache_that_is_too_short_is_refused(tmp_path):
    attend = Attention(tmp_path / "attention.onnx", 1, 1, 32, capacity=16)
    attend(np.zeros((10, 96), np.float32))

    with pytest.raises(BackendError, match="more tokens than the cache"):
        attend(np.zeros((7, 96), np.float32))


@needs_amx
@pytest.mark.parametrize("rows", [1, 3])
def test_attention_to_what_is_no_number_is_no_number(rows, tmp_path):
    attend = Attention(tmp_path / "attention.onnx", 1, 1, 32)
    qkv = np.zeros((rows, 96), np.float32)
    qkv[-1, 40] = np.nan

    assert np.isnan(attend(qkv)[-1]).all()


@needs_amx
@pytest.mark.parametrize("width", [16, 70])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_norms_and_gates_are_those_of_numpy(width, rows, tmp_path):
    scale = weights_of(1, width)[0]
    dialect = AmxDialect()
    with Graph(tmp_path / "rows.onnx") as graph:
        x, other = (graph.input(name, "float32", (1, "T", width)) for name in ("x", "other"))
        gate_up = graph.input("gate_up", "float32", (1, "T", 2 * width))
        factor = dialect.constant(graph, "scale", scale)
        normed, total = dialect.add_rms_norm(graph, x, other, factor, 1e-5)
        found = {"alone": dialect.rms_norm(graph, x, factor, 1e-5), "normed": normed, "sum": total}
        found["gated"] = dialect.gated(graph, gate_up, "silu")
        for name, value in found.items():
            graph.output(name, "float32", (1, "T", width), value)
        graph.save()
    engine = OnnxRuntimeBackend(2).load(tmp_path / "rows.onnx")
    x, other, gate, up = 3 * np.random.default_rng(0).normal(size=(4, 1, rows, width)).astype(np.float32)
    gate[:, :, :4] = [-200, -80, 0, 80]

    outputs = engine.evaluate({"x": x, "other": other, "gate_up": np.concatenate([gate, up], axis=2)})

    def rms_norm(rows):
        return rows / np.sqrt((rows**2).mean(axis=2, keepdims=True) + 1e-5) * scale

    wide = gate.astype(np.float64)
    expected = {
        "alone": rms_norm(x),
        "normed": rms_norm(x + other),
        "sum": x + other,
        "gated": wide / (1 + np.exp(-wide)) * up,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)


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
@pytest.mark.parametrize("change", [{"kv_cache": "int8"}, {}])
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
        eyes = plan.manifest.component("vision_encoder")
        planned_bytes = plan_ledger(plan.manifest, 2048).item("vision_encoder").planned_bytes
        assert least <= planned_bytes / eyes.size_bytes < least + 0.2


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
