"""A JPEG is whole where its own end is there, whatever lies in it or behind it; nothing else is asked of its bytes."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.vision.truncation import is_cut_short

MARKERS = [bytes([0xFF, code]) for code in range(256)]


def encoded(suffix=".jpg", side=24, *parameters):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(suffix, pixels, parameters)[1].tobytes()


def with_segment(jpeg, code, content):
    """``jpeg`` with one more segment behind its start."""
    return jpeg[:2] + bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


PICTURES = {
    "baseline": encoded(),
    "progressive": encoded(".jpg", 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart intervals": encoded(".jpg", 24, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "thumbnail": with_segment(encoded(), 0xE1, b"Exif\0\0" + encoded(side=8)),
    "png": encoded(".png"),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_whole_with_its_last_byte_and_cut_short_before(picture):
    begins = 8  # bytes by which it is known to be a picture
    assert [is_cut_short(picture[:length]) for length in range(begins, len(picture) + 1)] == [
        *[True] * (len(picture) - begins),
        False,
    ]


def test_the_pictures_are_what_they_are_called():
    assert PICTURES["progressive"].count(b"\xff\xda") > 1
    assert b"\xff\xd0" in PICTURES["restart intervals"]
    assert PICTURES["thumbnail"].count(b"\xff\xd9") == 2


@pytest.mark.parametrize(
    "appended",
    [bytes(100_000), encoded(), encoded()[:-2], encoded(".png"), b"ftypmp42 \xff\xda\x00\x0c"],
    ids=["padding", "picture", "half a picture", "png", "video"],
)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_what_a_phone_appends_to_a_whole_picture_does_no_harm(picture, appended):
    assert not is_cut_short(picture + appended)


def test_a_whole_picture_behind_half_a_one_is_no_end_of_the_first():
    assert is_cut_short(encoded()[:-40] + encoded())


def test_fill_bytes_may_precede_the_end():
    assert not is_cut_short(encoded()[:-2] + b"\xff\xff\xff\xd9")


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"BM", b"text", b"\xff\xd9"])
def test_what_is_neither_jpeg_nor_png_is_not_called_cut_short(data):
    assert not is_cut_short(data)


@given(st.lists(st.sampled_from(MARKERS) | st.binary(max_size=5)).map(b"".join))
def test_bytes_without_an_end_are_cut_short_and_any_others_are_judged(data):
    assert isinstance(is_cut_short(b"\xff\xd8\xff" + data), bool)
    assert is_cut_short(b"\xff\xd8\xff" + data.replace(b"\xd9", b""))


def test_a_large_photograph_is_judged_in_a_moment():
    photograph = encoded(".jpg", 2048, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    assert len(photograph) > 4_000_000
    started_s = time.process_time()
    assert not is_cut_short(photograph)
    assert time.process_time() - started_s < 0.1  # it takes 3 ms, and a loop over its bytes 100 times that
