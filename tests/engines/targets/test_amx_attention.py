"""Attention by the operator for AMX against NumPy: a cache that grows, is too short, or holds what is no number."""

import numpy as np
import pytest

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import BackendError
from engines.layers.lowering.onnxruntime_amx import AmxLowering
from engines.layers.op_lowering import CausalAttention
from engines.onnx.builder import Graph
from tests.engines.targets.amx_products import needs_amx


def write_attention(path, heads, kv_heads, size, positions=200):
    angles = np.outer(np.arange(positions), 100.0 ** -(np.arange(0, size, 2) / size))
    sizes = CausalAttention(heads, kv_heads, size, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    with Graph(path) as graph:
        qkv = graph.input("qkv", "float32", (1, "T", (heads + 2 * kv_heads) * size))
        context = AmxLowering().causal_attention(graph, qkv, 0, sizes)
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
@pytest.mark.parametrize("steps", [(1, 1, 1), (5, 1, 1), (9, 8, 1), (33, 64, 1), (16, 2, 31, 1, 70)])
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

    np.testing.assert_allclose(found, attention(qkv, attend.sizes), atol=1e-2)  # scores of 2000, exact to 2^-16


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
@pytest.mark.parametrize("rows", [1, 3, 9, 40])
def test_attention_to_what_is_no_number_is_no_number(rows, tmp_path):
    attend = Attention(tmp_path / "attention.onnx", 1, 1, 32)
    qkv = np.zeros((rows, 96), np.float32)
    qkv[-1, 40] = np.nan

    assert np.isnan(attend(qkv)[-1]).all()
