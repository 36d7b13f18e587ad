"""A picture is decoded as OpenCV decodes it, or refused; damage, wherever it is, is no picture."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import FrameError
from edge_runtime.vision.image_decoding import STANDARD, DecodingRules, decode_image
from tests.edge_runtime.scenery import Frame, noisy, wall

PHOTO = noisy(wall(3, 240, 320), seed=3)


def encoded(suffix: str, *parameters: int, photo: Frame = PHOTO) -> bytes:
    return bytes(cv2.imencode(suffix, photo, parameters)[1])


def opencv_makes(data: bytes) -> Frame:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(np.uint8)


JPEGS = {
    "baseline": encoded(".jpg"),
    "quality 50": encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 50),
    "progressive": encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart intervals": encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 8),
    "optimized": encoded(".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "grey": encoded(".jpg", photo=PHOTO[..., 0]),
}
OTHERS = {suffix: encoded(suffix) for suffix in (".png", ".bmp", ".tiff", ".webp")}


def pillow_jpeg(mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTO[..., ::-1]).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def scan_of(jpeg: bytes) -> int:
    """Where the first scan's codes begin."""
    at = jpeg.index(b"\xff\xda")
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")


@pytest.mark.parametrize("data", [*JPEGS.values(), *OTHERS.values()], ids=[*JPEGS, *OTHERS])
def test_a_whole_picture_is_what_opencv_makes_of_it(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), opencv_makes(data))


@pytest.mark.parametrize(
    "data",
    [
        pillow_jpeg("CMYK"),
        pillow_jpeg("RGB", subsampling=0),
        pillow_jpeg("RGB", subsampling=1),
        pillow_jpeg("RGB", subsampling=2, progressive=True),
        pillow_jpeg("RGB", keep_rgb=True),
    ],
    ids=["CMYK", "4:4:4", "4:2:2", "4:2:0", "RGB"],
)
def test_a_jpeg_of_any_colours_is_what_opencv_makes_of_it(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), opencv_makes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_picture_is_turned_as_its_exif_orientation_says(orientation: int, name: str) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(PHOTO[..., ::-1]).save(file, name, exif=exif)
    data = file.getvalue()
    np.testing.assert_array_equal(decode_image(data), opencv_makes(data))
    assert decode_image(data, is_upright=False).shape == PHOTO.shape


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize(
    "harm",
    [
        lambda jpeg, scan: jpeg[:scan] + b"\xff\xd9",
        lambda jpeg, scan: jpeg[: scan + (len(jpeg) - scan) // 10] + b"\xff\xd9",
        lambda jpeg, scan: jpeg[: len(jpeg) // 2] + bytes(2000) + jpeg[len(jpeg) // 2 + 2000 :],
        lambda jpeg, scan: jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 1000 :],
        lambda jpeg, scan: jpeg[: len(jpeg) // 2],
        lambda jpeg, scan: jpeg[: len(jpeg) // 2] + jpeg,
        lambda jpeg, scan: jpeg[:scan] + bytes(len(jpeg) - scan - 2) + b"\xff\xd9",
        lambda jpeg, scan: jpeg[:200] + jpeg[400:],
    ],
    ids=["no scan", "a tenth", "zeroed", "lost bytes", "cut", "begun anew", "all zero", "lost header"],
)
def test_a_jpeg_damaged_between_whole_ends_is_refused(name: str, harm: Callable[[bytes, int], bytes]) -> None:
    with pytest.raises(FrameError, match=r"^the image is damaged"):
        decode_image(harm(JPEGS[name], scan_of(JPEGS[name])))


@pytest.mark.parametrize("suffix", OTHERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_another_picture_that_is_cut_short_is_refused(suffix: str, share: float) -> None:
    with pytest.raises(FrameError, match="is damaged"):
        decode_image(OTHERS[suffix][: int(share * len(OTHERS[suffix]))])


def claiming(data: bytes, width: int, height: int) -> bytes:
    """``data``, whose header says that it is as large as that."""
    if data.startswith(b"\xff\xd8"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if data.startswith(b"\x89PNG"):
        head = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<ii", width, -height) + data[26:]
    if data.startswith(b"RIFF"):
        return data[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[25:]
    directory = int.from_bytes(data[4:8], "little")
    entries = bytearray(data)
    for at in range(directory + 2, directory + 2 + 12 * int.from_bytes(data[directory : directory + 2], "little"), 12):
        if (tag := int.from_bytes(data[at : at + 2], "little")) in (256, 257):
            entries[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(entries)


@pytest.mark.parametrize("data", [JPEGS["baseline"], JPEGS["progressive"], *OTHERS.values()])
def test_a_picture_that_claims_to_be_too_large_is_refused_before_it_is_decoded(data: bytes) -> None:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        FrameError, match=r"too large: 16000x15000 are 240\.0 million pixels, of which 160\.0 million fit"
    ):
        decode_image(claiming(data, 16000, 15000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 50_000  # kB; it would have taken 720,000


def test_a_small_memory_makes_the_limit_smaller() -> None:
    rules = STANDARD.within(6 * 320 * 240)
    assert decode_image(JPEGS["baseline"], rules=rules).shape == PHOTO.shape
    deep = encoded(".png", photo=PHOTO.astype(np.uint16) * 257)
    for data, smaller in ((JPEGS["baseline"], STANDARD.within(6 * 320 * 240 - 1)), (deep, rules)):
        with pytest.raises(FrameError, match="too large: 320x240"):
            decode_image(data, rules=smaller)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_picture_of_12_bits_in_16_is_refused_until_somebody_says_so(suffix: str) -> None:
    data = encoded(suffix, photo=(PHOTO.astype(np.uint16) << 4) + 15)
    with pytest.raises(
        FrameError, match=r"16-bit pixels up to \d+: it is dark, or of 12 to 14 bits; .*--significant-bits"
    ):
        decode_image(data)
    frame = decode_image(data, rules=DecodingRules(significant_bits=12))
    np.testing.assert_allclose(frame, PHOTO, atol=1)


def tiff(pixels: bytes, width: int, height: int, bits: int, **tags: int) -> bytes:
    """A grey TIFF without compression; ``tags`` are named like ``tag281``."""
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries |= {int(name.removeprefix("tag")): value for name, value in tags.items()}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    return head + struct.pack("<H", len(entries)) + fields + bytes(4)


def test_a_tiff_that_says_its_largest_value_or_packs_its_bits_is_not_in_doubt() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(4, 64) * 16
    frame = decode_image(tiff(ramp.tobytes(), 64, 4, 16, tag281=4095))
    np.testing.assert_allclose(frame[..., 0], ramp / 16, atol=1)
    packed = int("".join(f"{value:012b}" for value in ramp.ravel()), 2).to_bytes(4 * 64 * 12 // 8, "big")
    np.testing.assert_allclose(decode_image(tiff(packed, 64, 4, 12))[..., 0], ramp / 16, atol=1)


def test_pixels_that_are_no_integers_are_refused() -> None:
    with pytest.raises(FrameError, match="pixels of float32"):
        decode_image(bytes(cv2.imencode(".tiff", PHOTO.astype(np.float32))[1]))


def harmed(data: bytes, kind: str, where: float, how_much: float) -> bytes:
    """``data`` cut, or with a span zeroed, two spans swapped, or one bit flipped."""
    at, size = int(where * len(data)), max(int(how_much * len(data) / 2), 1)
    if kind == "cut":
        return data[:at]
    if kind == "zero":
        return (data[:at] + bytes(size) + data[at + size :])[: len(data)]
    if kind == "swap":
        return data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
    return data[:at] + bytes([data[at] ^ 1 << int(8 * how_much)]) + data[at + 1 :]


def strictly_decoded(data: bytes) -> Frame | None:
    """What libraries make of a picture that take every warning for an error."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return simplejpeg.decode_jpeg(data, "BGR", strict=True)
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))[..., ::-1]
    except (ValueError, OSError, SyntaxError):
        return None


share = st.floats(0, 1, exclude_max=True)
HARM = st.tuples(st.sampled_from(["cut", "zero", "swap", "flip"]), share, share)


def check_harmed(data: bytes, harm: tuple[str, float, float]) -> None:
    broken = harmed(data, *harm)
    try:
        frame = decode_image(broken)
    except FrameError:
        return
    np.testing.assert_array_equal(frame, strictly_decoded(broken))
    if data.startswith(b"\x89PNG"):  # has checksums
        np.testing.assert_array_equal(frame, opencv_makes(data))


@settings(max_examples=300)
@given(st.sampled_from(sorted(JPEGS)), HARM)
def test_a_harmed_jpeg_is_refused_or_what_a_strict_decoder_makes(name: str, harm: tuple[str, float, float]) -> None:
    check_harmed(JPEGS[name], harm)


@settings(max_examples=300)
@given(HARM)
def test_a_harmed_png_is_refused_or_the_picture_that_it_was(harm: tuple[str, float, float]) -> None:
    check_harmed(OTHERS[".png"], harm)


@pytest.mark.slow
@settings(max_examples=2000)
@given(st.sampled_from(sorted(JPEGS)), HARM)
def test_of_2000_harmed_jpegs_none_is_a_wrong_picture_in_silence(name: str, harm: tuple[str, float, float]) -> None:
    check_harmed(JPEGS[name], harm)


@pytest.mark.slow
@settings(max_examples=2000)
@given(HARM)
def test_of_2000_harmed_pngs_none_is_a_wrong_picture_in_silence(harm: tuple[str, float, float]) -> None:
    check_harmed(OTHERS[".png"], harm)
