"""Any image message becomes the frame OpenCV would have made of it, or a FrameError; never a wrong picture."""

import json
from array import array
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import FrameError
from edge_runtime.reports.report import (
    ACTIONS,
    DEFECT_CLASSES,
    SEVERITIES,
    Finding,
    InspectionReport,
    Region,
    Timings,
    json_from_report,
    widest_finding,
)
from edge_runtime.reports.schema import SHIPPED, load_schema
from edge_runtime.ros.messages import (
    fill_compressed,
    fill_image,
    frame_from_compressed,
    frame_from_image,
    message_from_report,
    message_from_schema,
    report_from_message,
    schema_from_message,
)
from edge_runtime.vision.image_decoding import DecodingRules

OPENCV = {
    "bgr8": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUYV),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUYV),
}
few_examples = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 33)


def image_message(pixels, encoding, padding=0, is_bigendian=0):
    """The message a camera driver would publish for ``pixels``, its rows followed by ``padding`` bytes of noise."""
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1).view(np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (rows.shape[0], padding), np.uint8)
    data = np.hstack([rows, noise])
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=data.shape[1],
        data=array("B", data.tobytes()),
    )


def compressed_message(data, form="jpeg"):
    return SimpleNamespace(format=form, data=array("B", bytes(data)))


def picture(seed, height, width, channels, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def photo(height=48, width=64):
    """Smooth, so that JPEG keeps it nearly."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([2 * x, 2 * y, x + y]).astype(np.uint8)


@few_examples
@given(st.sampled_from(sorted(OPENCV)), seeds, sides, sides, st.integers(0, 17), st.booleans())
def test_every_8_bit_encoding_becomes_what_opencv_makes_of_it(encoding, seed, height, width, padding, is_bigendian):
    channels, code = OPENCV[encoding]
    width *= 2 if channels == 2 else 1
    pixels = picture(seed, height, width, channels)
    frame = frame_from_image(image_message(pixels, encoding, padding, is_bigendian))
    np.testing.assert_array_equal(frame, pixels if code is None else cv2.cvtColor(pixels, code))
    assert frame.dtype == np.uint8
    assert frame.shape == (height, width, 3)


@few_examples
@given(seeds, sides, sides, st.integers(0, 17), st.booleans())
def test_mono16_of_either_byte_order_is_scaled_to_8_bits(seed, height, width, padding, is_bigendian):
    values = picture(seed, height, width, 1, np.uint16)
    wire = values.astype(">u2" if is_bigendian else "<u2")
    frame = frame_from_image(image_message(wire, "mono16", padding, is_bigendian), DecodingRules(significant_bits=16))
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(frame, np.repeat(expected, 3, axis=2))


def test_mono16_of_12_bits_is_refused_until_somebody_says_so():
    """Read as 16 bits it would be black, and have no findings."""
    message = image_message((photo()[..., :1].astype(np.uint16) << 4) + 15, "mono16")
    with pytest.raises(FrameError, match=r"16-bit pixels up to 2\d\d\d: it is dark, or of 11 to 14 bits"):
        frame_from_image(message)
    frame = frame_from_image(message, DecodingRules(significant_bits=12))
    np.testing.assert_allclose(frame[..., 0], photo()[..., 0], atol=1)
    with pytest.raises(FrameError, match="10 significant bits end at 1023"):
        frame_from_image(message, DecodingRules(significant_bits=10))


def test_mono16_that_fills_its_bits_or_is_all_black_is_not_in_doubt():
    for top in (0, 1 << 14):
        message = image_message(np.array([[[top], [0]]], np.uint16), "mono16")
        assert frame_from_image(message)[0, 0, 0] == round(top / 257)


MOSAICS = {"rggb": ("rg", "gb"), "bggr": ("bg", "gr"), "gbrg": ("gb", "rg"), "grbg": ("gr", "bg")}
COLOUR = {"b": 40, "g": 120, "r": 220}


def mosaic(pattern, height=12, width=16):
    """What a sensor with that pattern sees of a wall of one colour."""
    rows = np.array([[COLOUR[letter] for letter in row] for row in MOSAICS[pattern]], np.uint8)
    return np.tile(rows, (height // 2, width // 2))[..., None]


def is_of_the_colour(frame):
    return (frame == np.array([COLOUR["b"], COLOUR["g"], COLOUR["r"]], np.uint8)).all()


@pytest.mark.parametrize("pattern", MOSAICS)
def test_a_bayer_mosaic_becomes_colours_by_any_transport(pattern):
    wide = mosaic(pattern).astype(np.uint16) * 257
    png = cv2.imencode(".png", mosaic(pattern))[1]
    assert is_of_the_colour(frame_from_image(image_message(mosaic(pattern), f"bayer_{pattern}8", padding=3)))
    assert is_of_the_colour(frame_from_image(image_message(wide, f"bayer_{pattern}16")))
    assert is_of_the_colour(frame_from_compressed(compressed_message(png, f"bayer_{pattern}8; png compressed ")))


def test_a_bayer_mosaic_that_was_made_colours_before_it_was_compressed_is_left_alone():
    png = cv2.imencode(".png", photo())[1]
    frame = frame_from_compressed(compressed_message(png, "bayer_rggb8; png compressed bgr8"))
    np.testing.assert_array_equal(frame, photo())


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "code"), [("nv12", cv2.COLOR_YUV2BGR_NV12), ("nv21", cv2.COLOR_YUV2BGR_NV21)])
def test_nv12_and_nv21_become_what_opencv_makes_of_them(encoding, code, padding):
    planes = picture(3, 36, 32, 1)
    message = image_message(planes, encoding, padding)
    message.height = 24
    np.testing.assert_array_equal(frame_from_image(message), cv2.cvtColor(planes, code))
    message.height = 36
    with pytest.raises(FrameError, match="54 rows"):
        frame_from_image(message)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "16SC1"])
def test_depth_is_refused_by_any_transport(encoding):
    png = cv2.imencode(".png", picture(0, 8, 8, 1, np.uint16))[1]
    for form in (f"{encoding}; png compressed", f"{encoding}; compressedDepth png", encoding):
        with pytest.raises(FrameError, match="depth or another measurement"):
            frame_from_compressed(compressed_message(png, form))
    with pytest.raises(FrameError, match="depth or another measurement"):
        frame_from_image(image_message(picture(0, 8, 8, 1, np.uint16), encoding))


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "bayer_rggb8", "bayer_grbg16"])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_frame_smaller_than_its_pattern_is_refused_or_has_its_size(encoding, side):
    dtype = np.uint16 if encoding.endswith("16") else np.uint8
    rows = side * 3 // 2 if encoding.startswith("nv") else side
    message = image_message(np.full((rows, side, 1), np.iinfo(dtype).max, dtype), encoding)
    message.height = side
    with suppress(FrameError):
        assert frame_from_image(message).shape == (side, side, 3)


def test_mono16_rows_at_odd_addresses_are_read_right():
    values = picture(0, 3, 5, 1, np.uint16)
    frame = frame_from_image(image_message(values.astype("<u2"), "mono16", padding=1))
    np.testing.assert_array_equal(frame[..., :1], np.rint(values / 257).astype(np.uint8))


@few_examples
@given(seeds, sides, sides)
def test_a_frame_survives_the_way_into_a_message_and_back(seed, height, width):
    frame = picture(seed, height, width, 3)
    message = SimpleNamespace()
    fill_image(message, frame)
    np.testing.assert_array_equal(frame_from_image(message), frame)


def test_a_cropped_frame_survives_too():
    crop = photo()[5:20, 7:30]
    message = SimpleNamespace()
    fill_image(message, crop)
    np.testing.assert_array_equal(frame_from_image(message), crop)


def test_bgr8_is_looked_at_and_not_copied():
    message = image_message(photo(), "bgr8", padding=8)
    frame = frame_from_image(message)
    message.data[0] ^= 255
    assert frame[0, 0, 0] == message.data[0]


@few_examples
@given(seeds, sides, sides, st.sampled_from([1, 3, 4]), st.sampled_from([np.uint8, np.uint16]))
def test_png_is_lossless_in_every_depth_and_channel_count(seed, height, width, channels, dtype):
    pixels = picture(seed, height, width, channels, dtype)
    message = compressed_message(cv2.imencode(".png", pixels)[1], "png")
    frame = frame_from_compressed(message, DecodingRules(significant_bits=16))
    eight_bit = pixels if dtype is np.uint8 else np.rint(pixels / 257).astype(np.uint8)
    expected = np.repeat(eight_bit, 3, axis=2) if channels == 1 else eight_bit[..., :3]
    np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("form", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed ", ""])
def test_jpeg_is_decoded_whatever_the_format_field_says(form):
    encoded = cv2.imencode(".jpg", photo())[1]
    frame = frame_from_compressed(compressed_message(encoded, form))
    np.testing.assert_array_equal(frame, cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def test_grey_jpeg_becomes_three_equal_channels():
    encoded = cv2.imencode(".jpg", photo()[..., 0])[1]
    frame = frame_from_compressed(compressed_message(encoded))
    assert frame.shape == (48, 64, 3)
    assert (frame[..., 0] == frame[..., 2]).all()


@pytest.mark.parametrize("appended", [bytes(100_000), b"\xff\xda\x00\x0c"], ids=["padding", "video"])
def test_what_cameras_append_to_a_jpeg_does_no_harm(appended):
    encoded = cv2.imencode(".jpg", photo())[1].tobytes()
    frame = frame_from_compressed(compressed_message(encoded + appended))
    np.testing.assert_array_equal(frame, cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR))


def test_filling_a_compressed_message_gives_a_jpeg_that_is_read_back():
    message = SimpleNamespace()
    fill_compressed(message, photo(), quality=95)
    difference = cv2.absdiff(frame_from_compressed(message), photo())
    assert difference.mean() < 3


@few_examples
@given(st.sampled_from([".jpg", ".png"]), st.floats(0, 1, exclude_max=True))
def test_a_picture_cut_short_anywhere_is_refused(suffix, share):
    encoded = cv2.imencode(suffix, photo())[1].tobytes()
    with pytest.raises(FrameError):
        frame_from_compressed(compressed_message(encoded[: int(len(encoded) * share)]))


@few_examples
@given(st.sampled_from([".jpg", ".png"]), st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_picture_is_refused_or_keeps_its_form(suffix, position, flipped):
    encoded = bytearray(cv2.imencode(suffix, photo())[1].tobytes())
    encoded[position % len(encoded)] ^= flipped
    try:
        frame = frame_from_compressed(compressed_message(encoded))
    except FrameError:
        return
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3


@few_examples
@given(
    st.fixed_dictionaries(
        {
            "height": st.integers(0, 2**32 - 1) | st.integers(0, 4),
            "width": st.integers(0, 2**32 - 1) | st.integers(0, 4),
            "encoding": st.sampled_from([*sorted(OPENCV), "mono16"]) | st.text(max_size=8),
            "is_bigendian": st.integers(0, 255),
            "step": st.integers(0, 2**32 - 1) | st.integers(0, 16),
            "data": st.binary(max_size=64),
        }
    )
)
def test_arbitrary_messages_are_refused_or_have_the_size_they_claim(fields):
    try:
        frame = frame_from_image(SimpleNamespace(**fields))
    except FrameError:
        return
    assert frame.shape == (fields["height"], fields["width"], 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoding": "bayer_rccb8"}, "bayer_rccb8"),
        ({"encoding": "32FC1"}, "32FC1"),  # depth in metres, NaN where there is none
        ({"encoding": ""}, "not supported"),
        ({"width": 0}, "empty"),
        ({"height": 0}, "empty"),
        ({"step": 191}, "step is 191"),
        ({"step": 193}, "rows of 193"),
        ({"step": 0}, "step is 0"),
        ({"height": 49}, "49 rows"),
        ({"data": b""}, "0 bytes"),
        ({"data": None}, "NoneType"),
        ({"encoding": "yuyv", "width": 63}, "even width"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused_with_the_reason(changes, said):
    message = image_message(photo(), "bgr8")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(FrameError, match=said):
        frame_from_image(message)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x01gh264", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(FrameError):
        frame_from_compressed(compressed_message(data, "h264"))


def test_a_jpeg_whose_thumbnail_ends_but_whose_scan_does_not_is_cut_short():
    encoded = cv2.imencode(".jpg", photo())[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(encoded) + 2).to_bytes(2, "big") + encoded
    whole = encoded[:2] + thumbnail + encoded[2:]
    assert frame_from_compressed(compressed_message(whole)).shape == (48, 64, 3)
    with pytest.raises(FrameError, match="cut short"):
        frame_from_compressed(compressed_message(whole[:-200]))


class _Message:
    """Takes any fields, as a generated ROS message takes its own."""

    def __init__(self, **fields):
        vars(self).update(fields)


MESSAGES = SimpleNamespace(
    **dict.fromkeys(["InspectionReport", "Finding", "Region", "Timings", "FieldValue"], _Message),
    **dict.fromkeys(["ReportSchema", "SchemaTerm", "SchemaField"], _Message),
)
shares = st.floats(0, 1)
durations = st.floats(0, 1e6)
findings = st.builds(
    Finding,
    defect_class=st.sampled_from(DEFECT_CLASSES),
    severity=st.sampled_from(SEVERITIES),
    region=st.builds(Region, shares, shares, shares, shares),
    confidence=shares,
    description=st.text(max_size=20),
    action=st.sampled_from(ACTIONS),
)
reports = st.builds(
    InspectionReport,
    findings=st.lists(findings, max_size=8).map(tuple),
    truncated=st.booleans(),
    tokens=st.integers(0, 2**31),
    timings=st.builds(Timings, durations, durations, durations, durations, durations),
    seen=st.lists(st.builds(Region, shares, shares, shares, shares), max_size=3).map(tuple),
    image_tokens=st.integers(0, 2**31),
    grid=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
)


@few_examples
@given(reports)
def test_a_report_survives_the_way_into_a_message_and_back(report):
    assert report_from_message(message_from_report(report, MESSAGES)) == report


def test_a_report_read_from_a_message_can_be_written_as_json():
    report = replace(InspectionReport(), tokens=3)
    json.dumps(json_from_report(report_from_message(message_from_report(report, MESSAGES))))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_schema_survives_the_way_into_a_message_and_back(name):
    assert schema_from_message(message_from_schema(load_schema(name), MESSAGES)) == load_schema(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_report_of_any_schema_survives_the_way_into_a_message_and_back(name):
    schema = load_schema(name)
    found = widest_finding(schema)
    found = replace(found, boxes=(found.region,) * 2 if schema.boxes == "several" else ())
    report = InspectionReport((found,), schema=schema)
    message = message_from_report(report, MESSAGES)
    assert report_from_message(message, schema) == report
    assert message.findings[0].severity_level == schema.severity_level(found.severity)
    with pytest.raises(ValueError, match="is no severity of other"):
        report_from_message(message, replace(schema, name="other", severities=(), fields=()))
