"""Turns ROS messages into frames and reports, and back; knows the names of their fields, and no ROS library.

Messages are duck-typed, so all of this runs, and is tested, where there is no ROS. A frame is uint8 (H, W, 3) in
OpenCV's BGR order. A ``bgr8`` message is not copied: the frame looks into the message's own bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError
from edge_runtime.reports.report import Finding, InspectionReport, Region, Timings
from edge_runtime.vision.image_decoding import STANDARD, DecodingRules, check_size, decode_image
from edge_runtime.vision.truncation import JPEG_START, PNG_START

Frame: TypeAlias = NDArray[np.uint8]  # (H, W, 3), BGR


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int  # bytes from one row to the next, padding included
    data: Any  # anything with the buffer protocol


class CompressedImageMessage(Protocol):
    """The fields of ``sensor_msgs/CompressedImage`` that are read here."""

    format: str
    data: Any


@dataclass(frozen=True)
class _Encoding:
    channels: int
    to_bgr: Callable[[NDArray[Any]], Frame]
    item_bytes: int = 1
    width_multiple: int = 1


def _colour(code: int) -> Callable[[NDArray[Any]], Frame]:
    def to_bgr(pixels: NDArray[Any]) -> Frame:
        return cast("Frame", cv2.cvtColor(_eight_bit(pixels), code))

    return to_bgr


_UYVY = _Encoding(2, _colour(cv2.COLOR_YUV2BGR_UYVY), width_multiple=2)
_YUYV = _Encoding(2, _colour(cv2.COLOR_YUV2BGR_YUY2), width_multiple=2)
_ENCODINGS = {
    "bgr8": _Encoding(3, lambda pixels: pixels),
    "rgb8": _Encoding(3, _colour(cv2.COLOR_RGB2BGR)),
    "bgra8": _Encoding(4, _colour(cv2.COLOR_BGRA2BGR)),
    "rgba8": _Encoding(4, _colour(cv2.COLOR_RGBA2BGR)),
    "mono8": _Encoding(1, _colour(cv2.COLOR_GRAY2BGR)),
    "mono16": _Encoding(1, _colour(cv2.COLOR_GRAY2BGR), item_bytes=2),
    "uyvy": _UYVY,
    "yuv422": _UYVY,  # what Humble calls it
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,  # what Humble calls it
}


def frame_from_image(message: ImageMessage, rules: DecodingRules = STANDARD) -> Frame:
    """The picture in a ``sensor_msgs/Image`` of any row stride and byte order.

    ``bgr8`` gives a view whose rows are ``step`` bytes apart; every other encoding is converted in one pass (mono16
    in two). 16-bit grey is scaled by 255 / 65535, as ``cv_bridge`` does.

    Raises:
        FrameError: the encoding is unknown, the frame is empty, or its sizes contradict each other.
    """
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise FrameError(f"encoding {message.encoding!r} is not supported; publish one of {', '.join(_ENCODINGS)}")
    data = _bytes_of(message)
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1:
        raise FrameError(f"the frame is empty: {width}x{height} pixels")
    try:
        check_size(width, height, rules)
    except FrameError as error:
        raise FrameError(f"the frame {error}") from error
    if width % encoding.width_multiple:
        raise FrameError(f"{message.encoding} needs an even width, found {width}")
    pixel_bytes = encoding.channels * encoding.item_bytes
    if step < width * pixel_bytes:
        raise FrameError(f"step is {step} bytes, but {width} pixels of {message.encoding} take {width * pixel_bytes}")
    if data.size != step * height:
        raise FrameError(f"data has {data.size} bytes, but {height} rows of {step} bytes make {step * height}")
    item = np.dtype(f"{'>' if message.is_bigendian else '<'}u{encoding.item_bytes}")
    shape, strides = (height, width, encoding.channels), (step, pixel_bytes, encoding.item_bytes)
    return encoding.to_bgr(np.ndarray(shape, item, data, strides=strides))


def frame_from_compressed(message: CompressedImageMessage, rules: DecodingRules = STANDARD) -> Frame:
    """The picture in a ``sensor_msgs/CompressedImage``: JPEG or PNG, grey or colour, 8 or 16 bits, alpha dropped.

    The bytes tell what they are; ``format`` only serves the error message, because drivers write anything there. An
    EXIF orientation is not applied: the camera's calibration belongs to the pixels as they lie.

    Raises:
        FrameError: neither JPEG nor PNG, cut short, or damaged.
    """
    encoded = _bytes_of(message).tobytes()
    if not encoded.startswith((JPEG_START, PNG_START)):
        raise FrameError(f"the {message.format!r} frame of {len(encoded)} bytes is neither JPEG nor PNG")
    return decode_image(encoded, f"the {message.format!r} frame", rules, is_upright=False)


def _bytes_of(message: ImageMessage | CompressedImageMessage) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(message.data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise FrameError(f"the message's data is no bytes but {type(message.data).__name__}") from error


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit pixels of either byte order scaled to 8 bits; 8-bit ones as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    native = np.require(pixels, np.uint16, ["ALIGNED"])  # given rows at odd addresses, OpenCV reads wrong pixels
    return cast("Frame", cv2.convertScaleAbs(native, alpha=255 / 65535))


def fill_image(message: Any, frame: Frame) -> None:
    """Put ``frame`` into a ``sensor_msgs/Image`` as ``bgr8``; the header is left alone."""
    message.height, message.width = frame.shape[:2]
    message.encoding = "bgr8"
    message.is_bigendian = 0
    message.step = frame.shape[1] * 3
    message.data = _uint8_array(np.ascontiguousarray(frame))


def fill_compressed(message: Any, frame: Frame, quality: int = 90) -> None:
    """Put ``frame`` into a ``sensor_msgs/CompressedImage`` as JPEG; the header is left alone."""
    _, jpeg = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, quality))
    message.format = "bgr8; jpeg compressed bgr8"
    message.data = _uint8_array(jpeg)


def _uint8_array(pixels: NDArray[np.uint8]) -> array[int]:
    """What rclpy takes as it is; of anything else Humble checks every byte, 0.2 s for a full-HD frame."""
    data = array("B")
    data.frombytes(pixels.data)
    return data


def message_from_report(report: InspectionReport, types: ModuleType) -> Any:
    """An ``inspection_msgs/InspectionReport`` with the report's own fields; header and counters are the caller's.

    ``types`` is ``inspection_msgs.msg``, handed in because this file imports no ROS.
    """
    return types.InspectionReport(
        findings=[
            types.Finding(
                defect_class=finding.defect_class,
                severity=finding.severity,
                region=types.Region(**vars(finding.region)),
                confidence=float(finding.confidence),
                description=finding.description,
                action=finding.action,
                track_id=finding.track_id or 0,
            )
            for finding in report.findings
        ],
        truncated=report.truncated,
        tokens=report.tokens,
        timings=types.Timings(**vars(report.timings)),
    )


def report_from_message(message: Any) -> InspectionReport:
    """Inverse of :func:`message_from_report`, exact to the last bit."""
    return InspectionReport(
        findings=tuple(_finding_from_message(finding) for finding in message.findings),
        truncated=message.truncated,
        tokens=message.tokens,
        timings=Timings(**_values(message.timings, [field.name for field in fields(Timings)])),
    )


def _finding_from_message(message: Any) -> Finding:
    return Finding(
        region=Region(**_values(message.region, [field.name for field in fields(Region)])),
        track_id=message.track_id or None,
        **_values(message, ("defect_class", "severity", "confidence", "description", "action")),
    )


def nanoseconds(stamp: Any) -> int:
    """A ``builtin_interfaces/Time`` as one number; rclpy's ``Time`` refuses the negative ones a message may hold."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _values(message: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}
