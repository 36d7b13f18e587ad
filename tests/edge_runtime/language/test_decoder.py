"""The cache gives what computing everything anew would give, and forgets what it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Engine
from edge_runtime.bundle.opening import Bundle, load_bundle
from edge_runtime.errors import BackendError, BundleCorruptError, BundleTargetError
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.embedding import open_embedding
from edge_runtime.language.kv_cache import open_cache

PREFIX = (1, 40, 41, 42, 43)
IMAGE = 16  # tokens of the tiny checkpoint's image


def open_decoder(bundle: Bundle, prefix: tuple[int, ...], capacity: int = 64) -> Decoder:
    manifest = bundle.manifest
    backend = open_backend(manifest, threads=1)
    groups = [backend.load(bundle.file(group.files[0])) for group in manifest.decoder_groups]
    heads = [backend.load(bundle.file(head.files[0])) for head in manifest.lm_heads]
    decoder = Decoder(backend, manifest, open_embedding(bundle), groups, heads, prefix, capacity)
    rows = decoder.image_rows(IMAGE)
    rows[...] = np.random.default_rng(1).standard_normal(rows.shape)
    return decoder


def load_connector(bundle: Bundle) -> Engine:
    return open_backend(bundle.manifest).load(bundle.file(bundle.manifest.component("connector").files[0]))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Iterator[Bundle]:
    return load_bundle(tiny_bundle)


@pytest.fixture
def decoder(bundle: Bundle) -> Decoder:
    return open_decoder(bundle, PREFIX)


def test_tokens_appended_one_by_one_give_the_logits_of_all_at_once(decoder: Decoder) -> None:
    at_once = decoder.prefill([50, 51, 52, 53], IMAGE).copy()
    decoder.prefill([50], IMAGE)
    decoder.append([51])
    one_by_one = decoder.append([52, 53])
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-4, atol=1e-4)


def test_a_prompt_of_several_steps_gives_the_logits_of_shorter_ones(bundle: Bundle) -> None:
    decoder = open_decoder(bundle, PREFIX, capacity=256)
    tokens = [50 + i % 10 for i in range(160)]
    in_several = decoder.prefill(tokens, IMAGE).copy()
    decoder.prefill(tokens[:20], IMAGE)
    for first in range(20, 160, 20):
        shorter = decoder.append(tokens[first : first + 20])
    np.testing.assert_allclose(in_several, shorter, rtol=1e-4, atol=1e-4)


def test_every_frame_starts_after_the_same_prefix(decoder: Decoder) -> None:
    first = decoder.prefill([50, 51], IMAGE).copy()
    decoder.append([60, 61, 62])
    assert np.array_equal(decoder.prefill([50, 51], IMAGE), first)


def test_the_prefix_matters(bundle: Bundle, decoder: Decoder) -> None:
    other = open_decoder(bundle, (1, 44, 45, 46, 47))
    assert np.abs(decoder.prefill([50], IMAGE) - other.prefill([50], IMAGE)).max() > 1e-3


def test_the_image_matters(decoder: Decoder) -> None:
    with_image = decoder.prefill([50], IMAGE).copy()
    decoder.image_rows(IMAGE)[...] = 0
    assert np.abs(decoder.prefill([50], IMAGE) - with_image).max() > 1e-3


def test_a_question_about_the_same_image_gets_the_logits_that_it_would_get_first(decoder: Decoder) -> None:
    first = decoder.prefill([50, 51, 52], IMAGE).copy()
    decoder.prefill([60], IMAGE)
    decoder.append([61, 62])
    np.testing.assert_allclose(decoder.prefill([50, 51, 52], IMAGE, same_image=True), first, rtol=1e-4, atol=1e-4)


def test_an_image_that_the_cache_does_not_hold_is_run_whatever_is_said(bundle: Bundle, decoder: Decoder) -> None:
    first = decoder.prefill([50], IMAGE).copy()
    assert np.array_equal(open_decoder(bundle, PREFIX).prefill([50], IMAGE, same_image=True), first)
    decoder.forget()
    assert np.array_equal(decoder.prefill([50], IMAGE, same_image=True), first)


def test_a_frame_whose_numbers_overflow_spoils_no_other(decoder: Decoder) -> None:
    sound = decoder.image_rows(IMAGE).copy()
    before = decoder.prefill([50, 51], IMAGE).copy()
    decoder.image_rows(IMAGE)[...] = np.nan
    assert np.isnan(decoder.prefill([50, 51], IMAGE)).all()
    decoder.image_rows(IMAGE)[...] = sound
    assert np.array_equal(decoder.prefill([50, 51], IMAGE), before)


def test_a_prompt_may_begin_with_the_image(bundle: Bundle) -> None:
    assert np.isfinite(open_decoder(bundle, ()).prefill([50], IMAGE)).all()


def test_more_tokens_than_the_cache_holds_are_refused(decoder: Decoder) -> None:
    decoder.prefill([50] * (64 - len(PREFIX) - IMAGE), IMAGE)
    with pytest.raises(IndexError, match="do not fit"):
        decoder.append([51])


def test_a_cache_cannot_be_cut_to_more_than_it_holds(bundle: Bundle) -> None:
    cache = open_cache(open_backend(bundle.manifest), bundle.manifest, 8)
    cache.grow(3)
    with pytest.raises(IndexError):
        cache.truncate(4)
    cache.truncate(1)
    assert cache.length == 1


def test_an_int4_embedding_is_the_float16_one_rounded(bundle: Bundle, tiny_int4_bundle: Path) -> None:
    ids = list(range(0, 512, 7))
    exact = open_embedding(bundle).rows(ids)
    rounded = open_embedding(load_bundle(tiny_int4_bundle)).rows(ids)
    assert exact.shape == rounded.shape == (len(ids), bundle.manifest.model.hidden_size)
    assert np.abs(exact - rounded).max() < np.abs(exact).max() / 8 + 1e-6
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


def test_an_embedding_smaller_than_its_table_is_refused(bundle_copy: Path) -> None:
    bundle = load_bundle(bundle_copy)
    (bundle_copy / "embedding.f16").write_bytes(b"\0" * 100)
    with pytest.raises(BundleCorruptError, match="does not hold"):
        open_embedding(bundle)


def test_a_file_that_is_no_graph_is_refused_by_the_backend(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"cannot load decoder\.onnx") as refused:
        open_backend(bundle.manifest).load(tmp_path / "decoder.onnx")
    assert refused.value.__cause__ is not None


def test_an_input_that_the_engine_does_not_have_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"connector\.onnx"):
        load_connector(bundle).bind({"nonsense": np.zeros(3, np.float32)}, {})()


def test_a_shape_that_the_engine_does_not_take_is_refused(bundle: Bundle) -> None:
    wrong, out = np.zeros((1, 2, 3), np.float32), np.zeros((1, 16, 128), np.float32)
    with pytest.raises(BackendError, match=r"connector\.onnx"):
        load_connector(bundle).bind({"features": wrong}, {"image_embeddings": out})()


def test_an_engine_that_is_closed_does_not_run(bundle: Bundle) -> None:
    connector = bundle.manifest.component("connector")
    engine = load_connector(bundle)
    features = np.zeros([d for d in connector.inputs[0].shape if isinstance(d, int)], np.float32)
    out = np.zeros([d for d in connector.outputs[0].shape if isinstance(d, int)], np.float32)
    run = engine.bind({"features": features}, {"image_embeddings": out})
    run()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        run()


def test_a_target_without_backend_is_refused_by_name(bundle: Bundle) -> None:
    with pytest.raises(BundleTargetError, match="'abacus'"):
        open_backend(replace(bundle.manifest, target="abacus"))
