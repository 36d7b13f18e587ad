"""Products, norms and gates by the operators for AMX against NumPy, and what they refuse."""

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_runtime.backends.native import DOMAIN, check_amx, find_operators
from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import BackendError, EdgeRuntimeError
from engines.layers.lowering.onnxruntime_amx import AmxLowering
from engines.onnx.builder import Graph
from engines.quantize.formats.int4 import Int4Matrix, dequantize
from engines.quantize.methods.rtn import quantize_rtn
from tests.engines.targets.amx_products import needs_amx, product, weights_of, write_product


def has_amx() -> bool:
    """Whether this processor would run the operators, compiled or not."""
    try:
        check_amx()
    except EdgeRuntimeError:
        return False
    return True


# Rows of one, of less than a tile, of whole tiles, and of one more than one and two of them.
ROWS = (1, 2, 15, 16, 17, 32, 33, 50)
SHAPES = [(32, 64, 64), (96, 128, 64), (96, 384, 128), (352, 256, 128), (43, 128, 64)]  # N, K, block


def in_steps(x, block):
    """``x`` (T, K) as 8 bits of every block leave it."""
    blocks = x.reshape(len(x), -1, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True).astype(np.float32) / np.float32(127)
    return (np.rint(blocks / scales) * scales).reshape(x.shape).astype(np.float64)


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
@pytest.mark.parametrize("shape", [(32, 32), (96, 64), (352, 544), (32, 1056), (43, 64)])
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
    path = write_product(tmp_path / "product.onnx", weight, width=64)

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

    sources = sorted([*library.parent.glob("*.cpp"), *library.parent.glob("*.hpp")])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    compiled = (ctypes.c_char * len(digest)).in_dll(ctypes.CDLL(str(library)), "edge_runtime_sources")
    assert compiled.value.decode() == digest, "pip install --no-deps -e ."


@needs_amx
def test_matrices_of_other_sizes_are_multiplied_as_everywhere(tmp_path):
    for index, (rows, columns) in enumerate([(32, 72), (24, 40)]):
        for bits, weight in ((4, quantize_rtn(weights_of(rows, columns), 64)), (16, weights_of(rows, columns))):
            values = dequantize(weight) if isinstance(weight, Int4Matrix) else weight.astype(np.float32)
            y = product(write_product(tmp_path / f"{index}.{bits}.onnx", weight), np.ones((3, columns), np.float32))
            np.testing.assert_allclose(y[0], values.sum(axis=1), rtol=1e-2, atol=1e-2)


@needs_amx
def test_a_matrix_is_used_where_its_file_is_mapped(tmp_path):
    weight = weights_of(8192, 4096)  # large beside the steps of an allocator in a process of many tests
    path = Path(os.path.realpath(write_product(tmp_path / "product.onnx", weight)))
    product(write_product(tmp_path / "small.onnx", weights_of(32, 32)), np.ones((1, 32), np.float32))
    process = psutil.Process()
    process.memory_maps(grouped=False)  # a long list, whose memory is not the engine's
    before = process.memory_info()

    engine = OnnxRuntimeBackend(1).load(path)
    loaded = [m for m in process.memory_maps(grouped=False) if m.path == f"{path}.data"]
    engine.evaluate({"x": np.ones((1, 1, 4096), np.float32)})
    after = process.memory_info()
    engine.close()

    assert sum(mapping.rss for mapping in loaded) >= weight.nbytes  # there before the first frame
    own = (after.rss - after.shared) - (before.rss - before.shared)
    assert own < weight.nbytes / 4


@needs_amx
def test_what_products_wrote_to_goes_with_the_last_engine(tmp_path):
    process = psutil.Process()
    before = process.memory_info()

    product(write_product(tmp_path / "product.onnx", weights_of(32, 4096)), np.ones((2048, 4096), np.float32))

    after = process.memory_info()
    own = (after.rss - after.shared) - (before.rss - before.shared)
    assert own < 4 * 2048 * 4096 / 2  # beside the rows as two bfloat16 each


@needs_amx
@pytest.mark.parametrize("width", [16, 70])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_norms_and_gates_are_those_of_numpy(width, rows, tmp_path):
    scale = weights_of(1, width)[0]
    lowering = AmxLowering()
    with Graph(tmp_path / "rows.onnx") as graph:
        x, other = (graph.input(name, "float32", (1, "T", width)) for name in ("x", "other"))
        gate_up = graph.input("gate_up", "float32", (1, "T", 2 * width))
        factor = lowering.constant(graph, "scale", scale)
        normed, total = lowering.add_rms_norm(graph, x, other, factor, 1e-5)
        found = {"alone": lowering.rms_norm(graph, x, factor, 1e-5), "normed": normed, "sum": total}
        found["gated"] = lowering.gated(graph, gate_up, "silu")
        for name, value in found.items():
            graph.output(name, "float32", (1, "T", width), value)
        graph.save()
    engine = OnnxRuntimeBackend(2).load(tmp_path / "rows.onnx")
    x, other, gate, up = 3 * np.random.default_rng(0).normal(size=(4, 1, rows, width)).astype(np.float32)
    gate[:, :, :6] = [-200, -80, 0, 80, 1e15, -1e15]

    outputs = engine.evaluate({"x": x, "other": other, "gate_up": np.concatenate([gate, up], axis=2)})

    def rms_norm(rows):
        return rows / np.sqrt((rows**2).mean(axis=2, keepdims=True) + 1e-5) * scale

    wide = gate.astype(np.float64)
    expected = {
        "alone": rms_norm(x),
        "normed": rms_norm(x + other),
        "sum": x + other,
        "gated": wide / (1 + np.exp(-np.maximum(wide, -300))) * up,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)
