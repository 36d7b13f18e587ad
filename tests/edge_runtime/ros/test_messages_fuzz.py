"""Ten thousand image messages, whole and broken: each is refused, or is the picture that OpenCV makes of it."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import FrameError
from edge_runtime.ros.messages import frame_from_compressed, frame_from_image
from edge_runtime.vision.image_decoding import DecodingRules
from tests.edge_runtime.ros.test_messages import OPENCV

CASES = 10_000
CONVERSIONS = {**OPENCV, "mono16": (2, cv2.COLOR_GRAY2BGR)}
PAIRED = {"uyvy", "yuv422", "yuyv", "yuv422_yuy2"}  # two pixels share their colour
SIZES = st.integers(0, 2**32 - 1)
BREAKS = st.fixed_dictionaries(
    {},
    optional={
        "height": SIZES | st.integers(0, 12),
        "width": SIZES | st.integers(0, 12),
        "step": SIZES | st.integers(0, 60),
        "encoding": st.text(max_size=6) | st.sampled_from(sorted(CONVERSIONS)),
        "is_bigendian": st.integers(0, 255),
        "data": st.binary(max_size=400) | st.none() | st.just("text"),
    },
)


def opencv_makes(message):
    """The picture by OpenCV alone, row by row; None where the fields contradict each other."""
    if message.encoding not in CONVERSIONS or not isinstance(message.data, bytes):
        return None
    pixel_bytes, code = CONVERSIONS[message.encoding]
    row_bytes = message.width * pixel_bytes
    if not (message.height and message.width and message.step >= row_bytes):
        return None
    if message.step * message.height != len(message.data) or (message.encoding in PAIRED and message.width % 2):
        return None
    starts = range(0, len(message.data), message.step)
    rows = [np.frombuffer(message.data[start : start + row_bytes], np.uint8) for start in starts]
    pixels = np.stack(rows).reshape(message.height, message.width, pixel_bytes)
    if message.encoding == "mono16":
        values = pixels.copy().view(">u2" if message.is_bigendian else "<u2").astype(np.float64)
        pixels = np.rint(values / 257).astype(np.uint8)
    return pixels if code is None else cv2.cvtColor(np.ascontiguousarray(pixels), code)


@pytest.mark.slow
@settings(max_examples=CASES)
@given(
    st.sampled_from(sorted(CONVERSIONS)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.just({}) | BREAKS,
)
def test_a_raw_message_is_refused_or_is_the_picture_that_opencv_makes(
    encoding, height, width, padding, is_bigendian, seed, breaks
):
    step = width * CONVERSIONS[encoding][0] + padding
    data = np.random.default_rng(seed).integers(0, 256, height * step, np.uint8).tobytes()
    whole = {"height": height, "width": width, "encoding": encoding, "is_bigendian": int(is_bigendian), "step": step}
    message = SimpleNamespace(**{**whole, "data": data, **breaks})
    expected = opencv_makes(message)
    if expected is None:
        with pytest.raises(FrameError):
            frame_from_image(message)
    else:
        np.testing.assert_array_equal(frame_from_image(message, DecodingRules(significant_bits=16)), expected)


@pytest.mark.slow
@settings(max_examples=CASES)
@given(
    st.sampled_from([".jpg", ".png"]),
    st.integers(1, 24),
    st.integers(1, 24),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32 - 1),
    st.none() | st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)) | st.floats(0, 1, exclude_max=True),
)
def test_a_compressed_message_is_refused_or_is_the_picture_that_opencv_makes(
    suffix, height, width, channels, seed, harm
):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    data = bytearray(cv2.imencode(suffix, pixels)[1].tobytes())
    if isinstance(harm, float):
        del data[int(harm * len(data)) :]
    elif harm is not None:
        data[int(harm[0] * len(data))] = harm[1]
    message = SimpleNamespace(format=suffix, data=bytes(data))
    if harm is None:
        np.testing.assert_array_equal(frame_from_compressed(message), cv2.imdecode(np.frombuffer(data, np.uint8), 1))
    elif isinstance(harm, float):
        with pytest.raises(FrameError):
            frame_from_compressed(message)
    else:  # one wrong byte may be a wrong pixel, which nobody can tell; never another size or a crash
        try:
            frame = frame_from_compressed(message)
        except FrameError:
            return
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
