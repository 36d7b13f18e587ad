"""Input scales folded into what comes before: the outputs stay the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CheckpointError
from engines.quantize.activations import measure_activations
from engines.quantize.methods.fold import divided, fold_into_rows, head_producers, share_by_producer

seeds = st.integers(0, 10_000)


def scales_for(rng, size):
    return np.exp(rng.normal(size=size)).astype(np.float32)


@given(seeds)
def test_a_norm_and_the_matrix_after_it_compute_the_same(seed):
    rng = np.random.default_rng(seed)
    x, norm, weight = rng.normal(size=(9, 24)), rng.normal(size=24), rng.normal(size=(5, 24))
    scales = scales_for(rng, 24)

    folded = (x * fold_into_rows(norm, scales)) @ (weight * scales).T

    np.testing.assert_allclose(folded, (x * norm) @ weight.T, atol=0.05)


@given(seeds)
def test_up_proj_and_the_matrix_after_the_gate_compute_the_same(seed):
    rng = np.random.default_rng(seed)
    x, gate, up, down = (rng.normal(size=shape) for shape in ((9, 16), (24, 16), (24, 16), (16, 24)))
    scales = scales_for(rng, 24)

    def mlp(up, down):
        return (np.tanh(x @ gate.T) * (x @ up.T)) @ down.T

    np.testing.assert_allclose(mlp(fold_into_rows(up, scales), down * scales), mlp(up, down), atol=0.3)


@given(seeds)
def test_v_proj_and_o_proj_compute_the_same_where_heads_share_values(seed):
    rng = np.random.default_rng(seed)
    heads, kv_heads, dim = 4, 2, 3
    x, v_proj, o_proj = rng.normal(size=(9, 16)), rng.normal(size=(kv_heads * dim, 16)), rng.normal(size=(8, 12))
    attention = rng.random((heads, 9, 9))
    producers = head_producers(heads, kv_heads, dim)
    scales = share_by_producer(scales_for(rng, heads * dim), producers)

    def attend(v_proj, o_proj):
        values = (x @ v_proj.T).reshape(9, kv_heads, dim).repeat(heads // kv_heads, axis=1)
        return np.einsum("hts,shd->thd", attention, values).reshape(9, -1) @ o_proj.T

    folded = attend(fold_into_rows(v_proj, scales, producers), o_proj * scales)
    np.testing.assert_allclose(folded, attend(v_proj, o_proj), atol=0.5)


def test_every_head_has_a_producer_of_its_own_where_none_is_shared():
    np.testing.assert_array_equal(head_producers(4, 4, 8), np.arange(32))


@given(seeds)
def test_divided_statistics_are_those_of_divided_inputs(seed):
    rng = np.random.default_rng(seed)
    inputs, scales = rng.normal(size=(40, 12)).astype(np.float32), scales_for(rng, 12)

    found, expected = divided(measure_activations(inputs), scales), measure_activations(inputs / scales)

    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.mean_magnitudes, expected.mean_magnitudes, rtol=1e-4)
    np.testing.assert_allclose(found.largest_magnitudes, expected.largest_magnitudes, rtol=1e-4)


def test_a_fold_that_float16_cannot_hold_is_refused():
    with pytest.raises(CheckpointError, match="without scales"):
        fold_into_rows(np.ones(3, np.float32), np.float32([1, 1e-6, 1]))
