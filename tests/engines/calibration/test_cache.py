"""Calibration caches: TensorRT's text is kept to the bit, and a cache of something else is refused by name."""

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CalibrationError
from engines.calibration.cache import (
    CacheBinding,
    load_cache,
    save_cache,
    scales_from_text,
    text_from_scales,
    version_number,
)

BINDING = CacheBinding(tensorrt="10.3.0", graph="a" * 64, data="b" * 64)
TEXT = text_from_scales({"x": 0.5, "layers.0/MatMul_3.0": 0.007874016}, "10.3.0")

names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)
scales = st.floats(2.0**-126, 2.0**100, width=32)


def test_the_text_is_tensorrts():
    assert TEXT == "TRT-100300-EntropyCalibration2\nx: 3f000000\nlayers.0/MatMul_3.0: 3c010204\n"


def test_a_cache_that_tensorrt_wrote_is_read():
    text = "TRT-8601-EntropyCalibration2\ninput: 3c009976\n/model/Mul:0_output: 3caa5293\nshort: 0\n"

    assert scales_from_text(text) == {
        "input": struct.unpack(">f", bytes.fromhex("3c009976"))[0],
        "/model/Mul:0_output": struct.unpack(">f", bytes.fromhex("3caa5293"))[0],
        "short": 0.0,
    }


@given(st.dictionaries(names, scales))
def test_scales_survive_to_the_bit(given_scales):
    assert scales_from_text(text_from_scales(given_scales, "10.16.1")) == given_scales


@pytest.mark.parametrize(("version", "number"), [("10.3.0", 100300), ("8.6.1.6", 8601), ("10.16.1.11", 101601)])
def test_a_version_is_written_as_tensorrt_counts(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(CalibrationError, match="'x' has the scale"):
        text_from_scales({"x": scale}, "10.3.0")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with ''"),
        ("TRT-100300-MinMaxCalibration\nx: 3f000000\n", "MinMaxCalibration"),
        ("TRT-100300-EntropyCalibration2\nx 3f000000\n", "line 2"),
        ("TRT-100300-EntropyCalibration2\nx: 3f000000\ny: 3f0000000\n", "line 3"),
        ("TRT-100300-EntropyCalibration2\nx: nothex\n", "line 2"),
    ],
)
def test_a_text_that_is_no_cache_is_refused(text, says):
    with pytest.raises(CalibrationError, match=says):
        scales_from_text(text)


@given(st.text())
def test_any_text_is_a_cache_or_refused(text):
    with contextlib.suppress(CalibrationError):
        scales_from_text(text)


def test_a_cache_is_loaded_for_what_it_was_saved_for(tmp_path):
    save_cache(tmp_path / "decoder.cache", TEXT, BINDING)

    assert load_cache(tmp_path / "decoder.cache", BINDING) == TEXT
    assert (tmp_path / "decoder.cache").read_bytes() == TEXT.encode()


def test_where_no_cache_is_there_is_nothing_to_load(tmp_path):
    assert load_cache(tmp_path / "decoder.cache", BINDING) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (CacheBinding("10.6.0", BINDING.graph, BINDING.data), r"another TensorRT \(then 10.3.0, now 10.6.0\)"),
        (CacheBinding("10.3.0", "c" * 64, BINDING.data), r"another graph \(then aaaaaaaaaaaa, now cccccccccccc\)"),
        (CacheBinding("10.3.0", BINDING.graph, "c" * 64), "another set of images"),
        (CacheBinding("10.3.0", BINDING.graph, BINDING.data, "mse"), "another method"),
        (CacheBinding("10.6.0", "c" * 64, BINDING.data), "another TensorRT .* and another graph"),
    ],
)
def test_a_stale_cache_is_refused_by_what_differs(tmp_path, changed, says):
    save_cache(tmp_path / "decoder.cache", TEXT, BINDING)

    with pytest.raises(CalibrationError, match=says):
        load_cache(tmp_path / "decoder.cache", changed)


def test_an_altered_cache_is_refused(tmp_path):
    path = tmp_path / "decoder.cache"
    save_cache(path, TEXT, BINDING)
    path.write_text(TEXT.replace("3f", "40"))

    with pytest.raises(CalibrationError, match="was altered"):
        load_cache(path, BINDING)


def test_a_cache_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "decoder.cache").write_text(TEXT)

    with pytest.raises(CalibrationError, match=r"decoder\.cache\.json is missing"):
        load_cache(tmp_path / "decoder.cache", BINDING)


@pytest.mark.parametrize("note", ["", "[]", "3", '{"cache": null}', "[" * 100_000])
def test_a_damaged_note_is_refused(tmp_path, note):
    save_cache(tmp_path / "decoder.cache", TEXT, BINDING)
    (tmp_path / "decoder.cache.json").write_text(note)

    with pytest.raises(CalibrationError):
        load_cache(tmp_path / "decoder.cache", BINDING)


def test_what_a_cache_holds_for_can_be_read_beside_it(tmp_path):
    save_cache(tmp_path / "new" / "decoder.cache", TEXT, BINDING)
    note = json.loads((tmp_path / "new" / "decoder.cache.json").read_text())

    assert {key: note[key] for key in ("tensorrt", "method")} == {"tensorrt": "10.3.0", "method": "entropy"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CalibrationError, match="cannot be written"):
        save_cache(tmp_path / "file" / "decoder.cache", TEXT, BINDING)
