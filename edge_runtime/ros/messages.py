"""Turns ROS messages into frames and reports, and back; knows the names of their fields, and no ROS library.

Messages are duck-typed, so all of this runs, and is tested, where there is no ROS. A frame is uint8 (H, W, 3) in
OpenCV's BGR order. A ``bgr8`` message is not copied: the frame looks into the message's own bytes.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError
from edge_runtime.reports.report import Finding, InspectionReport, Region, Timings
from edge_runtime.reports.schema import BRIDGE, ReportField, ReportSchema, schema_from_document
from edge_runtime.vision.image_decoding import STANDARD, DecodingRules, check_size, decode_image, eight_bit
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
    to_bgr: Callable[[NDArray[np.uint8]], Frame]
    item_bytes: int = 1
    multiple: int = 1  # that the width is of, and of NV12 and NV21 the height too
    planes: Fraction = Fraction(1)  # rows of data a row of the picture


def _colour(code: int) -> Callable[[NDArray[np.uint8]], Frame]:
    return lambda pixels: cast("Frame", cv2.cvtColor(pixels, code))


_MOSAICS = {  # OpenCV's older names (BG for RGGB) tell of the second row's second pixel, ROS of the first's first
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
_UYVY = _Encoding(2, _colour(cv2.COLOR_YUV2BGR_UYVY), multiple=2)
_YUYV = _Encoding(2, _colour(cv2.COLOR_YUV2BGR_YUY2), multiple=2)
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
    "nv12": _Encoding(1, _colour(cv2.COLOR_YUV2BGR_NV12), multiple=2, planes=Fraction(3, 2)),
    "nv21": _Encoding(1, _colour(cv2.COLOR_YUV2BGR_NV21), multiple=2, planes=Fraction(3, 2)),
    **{f"{name}8": _Encoding(1, _colour(code)) for name, code in _MOSAICS.items()},
    **{f"{name}16": _Encoding(1, _colour(code), item_bytes=2) for name, code in _MOSAICS.items()},
}
_NO_PHOTOGRAPH = re.compile(r"(8S|16[US]|32[FSU]|64F)C\d*")  # depth and other measurements


def _check_photograph(encoding: str, name: str) -> None:
    """Refuse depth and other measurements, by whatever transport they come.

    Raises:
        FrameError: ``encoding`` is none of a photograph.
    """
    if _NO_PHOTOGRAPH.fullmatch(encoding):
        raise FrameError(
            f"{name} holds {encoding}, depth or another measurement, and no photograph; name another topic"
        )


def frame_from_image(message: ImageMessage, rules: DecodingRules = STANDARD) -> Frame:
    """The picture in a ``sensor_msgs/Image`` of any row stride and byte order.

    ``bgr8`` gives a view whose rows are ``step`` bytes apart; every other encoding is converted in one pass (16 bits
    in two). 16 bits are scaled by 255 / 65535, as ``cv_bridge`` does, or by the significant ones that ``rules`` name.
    The rows of NV12's and NV21's colours follow those of the brightness.

    Raises:
        FrameError: the encoding is unknown or of no photograph, the frame is empty or too large, its sizes contradict
            each other, or it is not clear which of 16 bits are significant.
    """
    _check_photograph(message.encoding, "the frame")
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
    if width % encoding.multiple:
        raise FrameError(f"{message.encoding} needs an even width, found {width}")
    if encoding.planes != 1 and height % encoding.multiple:
        raise FrameError(f"{message.encoding} needs an even height, found {height}")
    rows = int(height * encoding.planes)
    pixel_bytes = encoding.channels * encoding.item_bytes
    if step < width * pixel_bytes:
        raise FrameError(f"step is {step} bytes, but {width} pixels of {message.encoding} take {width * pixel_bytes}")
    if data.size != step * rows:
        raise FrameError(f"data has {data.size} bytes, but {rows} rows of {step} bytes make {step * rows}")
    item = np.dtype(f"{'>' if message.is_bigendian else '<'}u{encoding.item_bytes}")
    shape, strides = (rows, width, encoding.channels), (step, pixel_bytes, encoding.item_bytes)
    pixels = np.ndarray(shape, item, data, strides=strides)
    try:
        return encoding.to_bgr(eight_bit(pixels, rules.significant_bits))
    except FrameError as error:
        raise FrameError(f"the {message.encoding} frame {error}") from error
    except cv2.error as error:  # a mosaic of less than its pattern, for instance
        raise FrameError(
            f"the {message.encoding} frame of {width}x{height} cannot be converted: {error.err}"
        ) from error


def frame_from_compressed(message: CompressedImageMessage, rules: DecodingRules = STANDARD) -> Frame:
    """The picture in a ``sensor_msgs/CompressedImage``: JPEG or PNG, grey or colour, 8 or 16 bits, alpha dropped.

    The bytes tell what they are. Of ``format``, in which drivers write anything, only what was compressed is read, as
    ``image_transport`` writes it in front: depth is refused, and a Bayer mosaic that was compressed as it is becomes
    colours. An EXIF orientation is not applied: the camera's calibration belongs to the pixels as they lie.

    Raises:
        FrameError: neither JPEG nor PNG, damaged, too large, no photograph, or of ambiguous depth.
    """
    encoded = _bytes_of(message).tobytes()
    if not encoded.startswith((JPEG_START, PNG_START)):
        raise FrameError(f"the {message.format!r} frame of {len(encoded)} bytes is neither JPEG nor PNG")
    name, compressed = f"the {message.format!r} frame", re.split(r"[;,\s]", message.format.strip())[0]
    _check_photograph(compressed, name)
    mosaic = _MOSAICS.get(compressed.rstrip("0123456789"))
    if compressed.startswith("bayer_") and mosaic is None:
        raise FrameError(f"{name} is of an unknown mosaic; compress one of {', '.join(_MOSAICS)}")
    return decode_image(encoded, name, rules, is_upright=False, mosaic=mosaic)


def _bytes_of(message: ImageMessage | CompressedImageMessage) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(message.data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise FrameError(f"the message's data is no bytes but {type(message.data).__name__}") from error


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
                severity_level=report.schema.severity_level(finding.severity),
                region=types.Region(**vars(finding.region)),
                boxes=[types.Region(**vars(box)) for box in finding.boxes],
                fields=[_message_from_field(each, finding.fields[each.name], types) for each in report.schema.fields],
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
        seen=[types.Region(**vars(part)) for part in report.seen],
        image_tokens=report.image_tokens,
        grid=list(report.grid or ()),
    )


def _message_from_field(field: ReportField, value: str | int | float, types: ModuleType) -> Any:
    number = float("nan") if isinstance(value, str) else float(value)
    return types.FieldValue(name=field.name, text=str(value), number=number, unit=field.unit)


def message_from_schema(schema: ReportSchema, types: ModuleType) -> Any:
    """An ``inspection_msgs/ReportSchema``; ``activated`` is the caller's. ``types`` is ``inspection_msgs.msg``."""
    return types.ReportSchema(
        name=schema.name,
        subject=schema.subject,
        classes=[types.SchemaTerm(**vars(term)) for term in schema.classes],
        severities=[types.SchemaTerm(**vars(term)) for term in schema.severities],
        actions=list(schema.actions),
        fields=[
            types.SchemaField(
                name=each.name,
                type=each.type,
                values=list(each.values),
                minimum=float(each.minimum),
                maximum=float(each.maximum),
                decimals=each.decimals,
                unit=each.unit,
                max_chars=each.max_chars,
            )
            for each in schema.fields
        ],
        boxes=schema.boxes,
        max_findings=schema.max_findings,
        max_description_chars=schema.max_description_chars,
        language=schema.language,
    )


def schema_from_message(message: Any) -> ReportSchema:
    """Inverse of :func:`message_from_schema`.

    Raises:
        SchemaError: the message holds no schema.
    """
    return schema_from_document(
        {
            **_values(message, ("name", "subject", "boxes", "language")),
            **{key: int(getattr(message, key)) for key in ("max_findings", "max_description_chars")},
            "classes": {term.name: term.definition for term in message.classes},
            "severities": {term.name: term.definition for term in message.severities},
            "actions": list(message.actions),
            "fields": {field.name: _field_document(field) for field in message.fields},
        }
    )


def _field_document(field: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"type": field.type}
    if field.type == "enumeration":
        return {**said, "values": list(field.values)}
    if field.type == "text":
        return {**said, "max_chars": int(field.max_chars)}
    bounds = {"minimum": float(field.minimum), "maximum": float(field.maximum), "unit": field.unit}
    return {**said, **bounds, **({"decimals": int(field.decimals)} if field.type == "number" else {})}


def report_from_message(message: Any, schema: ReportSchema = BRIDGE) -> InspectionReport:
    """Inverse of :func:`message_from_report`, exact to the last bit, of a report in the words of ``schema``.

    Raises:
        ValueError: it is in other words.
    """
    return InspectionReport(
        findings=tuple(_finding_from_message(finding, schema) for finding in message.findings),
        truncated=message.truncated,
        tokens=message.tokens,
        timings=Timings(**_values(message.timings, [field.name for field in fields(Timings)])),
        seen=tuple(map(_region_from_message, message.seen)),
        image_tokens=message.image_tokens,
        grid=(int(message.grid[0]), int(message.grid[1])) if len(message.grid) == 2 else None,
        schema=schema,
    )


def _region_from_message(message: Any) -> Region:
    return Region(**_values(message, [field.name for field in fields(Region)]))


def _finding_from_message(message: Any, schema: ReportSchema) -> Finding:
    schema.severity_level(message.severity)  # raises where the report is in other words
    kinds = {each.name: each.type for each in schema.fields}
    said = {each.name: each for each in getattr(message, "fields", ())}  # messages from before schemas have none
    if set(said) != set(kinds):
        raise ValueError(f"a finding has the fields {sorted(said)}, and those of {schema.name} are {sorted(kinds)}")
    return Finding(
        region=_region_from_message(message.region),
        boxes=tuple(map(_region_from_message, getattr(message, "boxes", ()))),
        fields={name: _field_value(said[name], kind) for name, kind in kinds.items()},
        track_id=message.track_id or None,
        **_values(message, ("defect_class", "severity", "confidence", "description", "action")),
    )


def _field_value(message: Any, kind: str) -> str | int | float:
    if kind in ("enumeration", "text"):
        return str(message.text)
    return int(message.number) if kind == "integer" else float(message.number)


def nanoseconds(stamp: Any) -> int:
    """A ``builtin_interfaces/Time`` as one number; rclpy's ``Time`` refuses the negative ones a message may hold."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _values(message: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}
