"""A header is read or refused, whatever its bytes are; EXIF data that is damaged is as none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import FrameError
from edge_runtime.vision.image_header import ExifData, exif_data, image_header


def saved(suffix: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = 6
    exif.get_ifd(0x8769).update({0x9003: "2026:05:01 10:00:00", 0x9011: "+02:00", 0x9291: "25"})
    exif.get_ifd(0x8825).update({1: "N", 2: (47, 22, 30), 3: "W", 4: (8, 30, 0)})
    Image.new("RGB", (40, 30)).save(file, suffix, exif=exif.tobytes())
    return file.getvalue()


FILES = {name: saved(name) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
STARTS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\0\0\0\0WEBPVP8X", b"II*\0", b"MM\0*"]


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_known_before_anything_is_decoded(name: str) -> None:
    header = image_header(FILES[name])
    assert (header.format.upper(), header.width, header.height) == (name, 40, 30)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_exif_tells_orientation_time_and_place(name: str) -> None:
    exif = exif_data(FILES[name])
    assert exif.orientation == 6
    assert exif.taken_s == pytest.approx(1777622400.25)  # 2026-05-01 08:00:00.25 UTC
    assert exif.position == pytest.approx((47.375, -8.5))


@settings(max_examples=300)
@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_have_a_size(start: bytes, rest: bytes) -> None:
    assert isinstance(exif_data(start + rest), ExifData)
    try:
        header = image_header(start + rest)
    except FrameError:
        return
    assert header.width > 0
    assert header.height > 0


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8))
def test_damaged_exif_data_is_read_or_as_none(name: str, where: float, harm: bytes) -> None:
    data = FILES[name]
    at = int(where * len(data))
    assert 1 <= exif_data(data[:at] + harm + data[at + len(harm) :]).orientation <= 8
