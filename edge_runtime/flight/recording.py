"""A flight read back from the MCAP file of the flight recorder; knows topics and messages, and needs no ROS."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from edge_runtime.errors import FlightLogError, MissingDependencyError
from edge_runtime.flight.log import Flight, FlightEnd, FlightHeader, FlightRecord, FrameFailure, choose_flight
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from edge_runtime.ros.diagnostic_values import counters_from_values, memory_plan_from_values
from edge_runtime.ros.messages import nanoseconds, report_from_message, schema_from_message

SUFFIX = ".mcap"

_NO_FIX = -1  # of sensor_msgs/NavSatStatus; a driver that does not fill it in leaves 0 in Humble and -2 in Jazzy
_MAGIC_BYTES = 8
_MAGIC_BEGINS = b"\x89"  # no kind of a record does
_NO_RECORD = 0  # where a disk gave zeros back
_RECORD_HEAD = struct.Struct("<BQ")  # its kind, and the bytes that follow
_REPORT = "inspection_msgs/msg/InspectionReport"
_FAILURE = "inspection_msgs/msg/FrameFailure"
_PICTURE = "sensor_msgs/msg/CompressedImage"
_HEALTH = "diagnostic_msgs/msg/DiagnosticArray"
_SCHEMA = "inspection_msgs/msg/ReportSchema"


def load_recording(path: str | Path, number: int | None = None) -> Flight:
    """A flight in a recording, the last one unless its ``number`` is given, from 1; each activation of a node is one.

    Where a power cut ended it, what had been written until then. Of files without checksums, which other recorders may
    write, a wrong byte inside of a message cannot be told.

    Raises:
        FlightLogError: the file cannot be read, differs from its checksums, is no recording of a flight, or has no such
            flight.
        MissingDependencyError: the libraries that read recordings are not installed.
    """
    flown = _Flown()
    try:
        for kind, topic, log_ns, message in _messages(Path(path), flown):
            _TELLERS[kind](flown, topic, log_ns, message)
    except OSError as error:
        raise FlightLogError(f"cannot read recording {path}: {error.strerror or error}") from error
    except MissingDependencyError:
        raise
    except Exception as error:  # whatever two libraries say of bytes that are not what they should be
        raise FlightLogError(f"recording {path} is damaged, or none: {error!r}") from error
    if flown.started_ns is None:
        raise FlightLogError(f"{path} records no flight: no report and no diagnostics are in it")
    chosen = choose_flight(path, max(len(flown.parts), 1), number)
    try:
        return flown.flight(chosen)
    except ValueError as error:
        raise FlightLogError(
            f"recording {path} has reports in other words than its schema's, or lacks that: {error}"
        ) from error


@dataclass
class _Part:
    """One flight: what was said since one activation of one node."""

    started_ns: int
    namespace: str | None  # of the node; None where its topics were remapped
    reports: list[Any] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)
    pictures: dict[int, bytes] = field(default_factory=dict)  # by the number of their report


@dataclass
class _Flown:
    """What was read so far."""

    started_ns: int | None = None  # when anything was first heard
    parts: dict[int, _Part] = field(default_factory=dict)  # by their activation, in the order of their first words
    awaited: dict[tuple[int, str], tuple[_Part, int]] = field(
        default_factory=dict
    )  # reports without a picture, by frame
    early: dict[tuple[int, str], bytes] = field(default_factory=dict)  # pictures without a report, by frame
    health_of: dict[str, dict[str, str]] = field(default_factory=dict)  # by the node's namespace, the last one told
    health_since: dict[str, dict[str, str]] = field(default_factory=dict)  # by the activation, in words
    schemas: dict[int, ReportSchema] = field(default_factory=dict)  # by the activation that told them
    is_whole: bool = False

    def schema(self, topic: str, log_ns: int, message: Any) -> None:
        self.schemas[nanoseconds(message.activated)] = schema_from_message(message)

    def report(self, topic: str, log_ns: int, message: Any) -> None:
        part = self._part(topic, log_ns, message)
        number, frame = len(part.reports), _frame_of(message)
        part.reports.append(message)
        if frame in self.early:
            part.pictures[number] = self.early.pop(frame)
        else:
            self.awaited[frame] = part, number

    def failure(self, topic: str, log_ns: int, message: Any) -> None:
        self._part(topic, log_ns, message).failures.append(message)

    def picture(self, topic: str, log_ns: int, message: Any) -> None:
        frame = _frame_of(message)
        awaited = self.awaited.pop(frame, None)
        if awaited is None:
            self.early[frame] = bytes(message.data)
        else:
            part, number = awaited
            part.pictures[number] = bytes(message.data)

    def diagnostics(self, topic: str, log_ns: int, message: Any) -> None:
        for status in message.status:
            node, _, task = status.name.partition(": ")
            if task == "inspection":  # of this drone, or of another in the same domain
                self.started_ns = log_ns if self.started_ns is None else self.started_ns
                values = {pair.key: pair.value for pair in status.values}
                self.health_of.setdefault(node.rpartition("/")[0], {}).update(values)
                if "activated" in values:
                    self.health_since.setdefault(values["activated"], {}).update(values)

    def _part(self, topic: str, log_ns: int, message: Any) -> _Part:
        activated_ns = nanoseconds(message.activated)
        if activated_ns not in self.parts:  # the node was activated anew, or there are two: that is another flight
            namespace, inspection, _ = topic.rpartition("/inspection/")
            if self.parts:  # of cameras without a clock, pictures would go to reports of another flight
                self.awaited, self.early = {}, {}
            self.parts[activated_ns] = _Part(log_ns, namespace if inspection else None)
        self.started_ns = log_ns if self.started_ns is None else self.started_ns
        return self.parts[activated_ns]

    def _health(self, activated_ns: int, part: _Part, is_last: bool) -> dict[str, str]:
        """What the node told last in a flight; of the last one where it did not say of which flight it spoke.

        Where it is not clear which node's topics these are, that of the only one.
        """
        since = self.health_since.get(str(activated_ns))
        if since is not None or not is_last:
            return since or {}
        if part.namespace is None and len(self.health_of) == 1:
            return next(iter(self.health_of.values()))
        return self.health_of.get(part.namespace or "", {})

    def flight(self, number: int) -> Flight:
        assert self.started_ns is not None, "there is a flight"
        nothing = _Part(self.started_ns, None if len(self.health_of) == 1 else "")
        activated_ns, part = (list(self.parts.items()) or [(0, nothing)])[number - 1]
        is_last = number >= len(self.parts)
        health = self._health(activated_ns, part, is_last)
        told = (*part.reports, *part.failures)  # a report first: of a frame that failed, the stamp may be broken, too
        first_ns = nanoseconds(told[0].header.stamp) if told else 0
        schema = self.schemas.get(activated_ns, BRIDGE)  # recordings from before schemas have none
        records = tuple(_record(part, *numbered, first_ns, schema) for numbered in enumerate(part.reports))
        failures = tuple(_failure(message, first_ns) for message in part.failures)
        counters = counters_from_values(health)
        end = None
        if (self.is_whole or not is_last) and counters is not None:
            memory_plan = memory_plan_from_values(health)
            end = FlightEnd(counters.received, counters.dropped, counters.failed, memory_plan, counters.skipped)
        return Flight(
            FlightHeader(
                health.get("bundle", ""),
                ", ".join(dict.fromkeys(message.camera for message in told)),
                (self.started_ns if len(self.parts) <= 1 else part.started_ns) / 1e9,
                schema,
            ),
            records,
            failures,
            end,
            number,
            max(len(self.parts), 1),
            sum(len(other.reports) for other in self.parts.values()) - len(part.reports),
        )


def _record(part: _Part, number: int, message: Any, first_ns: int, schema: ReportSchema) -> FlightRecord:
    stamp_ns = nanoseconds(message.header.stamp)
    return FlightRecord(
        int(message.frame_index),
        (stamp_ns - first_ns) / 1e9,
        message.camera,
        report_from_message(message, schema),
        part.pictures.get(number),
        is_annotated=True,
        place=_place(message),
    )


def _frame_of(message: Any) -> tuple[int, str]:
    """What a report and the picture of its frame have in common; cameras that are triggered at once share stamps."""
    return nanoseconds(message.header.stamp), message.header.frame_id


def _place(message: Any) -> str:
    """Where a report's frame was taken, by satellite, by the pose, or both."""
    words = [
        f"{fix.latitude:.6f}, {fix.longitude:.6f}, {fix.altitude:.1f} m"
        for fix in message.position
        if fix.status.status != _NO_FIX and math.isfinite(fix.latitude) and math.isfinite(fix.longitude)
    ]
    for pose in message.pose:
        at = pose.pose.position
        words.append(f"x {at.x:.2f}, y {at.y:.2f}, z {at.z:.2f} m in {pose.header.frame_id!r}")
    return "; ".join(words)


def _failure(message: Any, first_ns: int) -> FrameFailure:
    stamp_s = (nanoseconds(message.header.stamp) - first_ns) / 1e9
    return FrameFailure(int(message.frame_index), stamp_s, message.camera, message.reason)


_TELLERS = {
    _REPORT: _Flown.report,
    _SCHEMA: _Flown.schema,
    _FAILURE: _Flown.failure,
    _PICTURE: _Flown.picture,
    _HEALTH: _Flown.diagnostics,
}


def _messages(path: Path, flown: _Flown) -> Iterator[tuple[str, str, int, Any]]:
    """Type, topic, log time and content of every message that tells something, as far as the file goes."""
    try:
        from mcap.exceptions import EndOfFile
        from mcap.records import Channel, DataEnd, Footer, Message, Schema
        from mcap.stream_reader import StreamReader
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise MissingDependencyError(f"cannot read recordings: {error}; pip install '.[bags]' in a checkout") from error
    types = get_typestore(Stores.EMPTY)
    names: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}  # type and topic
    written = path.read_bytes()
    whole = BytesIO(written[: _end_of_records(written)])
    records = iter(StreamReader(whole, record_size_limit=len(written), validate_crcs=True).records)
    has_all_data = False
    while True:
        try:
            record = next(records)
        except (StopIteration, EndOfFile, struct.error):  # all, or cut short, which ``is_whole`` tells
            return
        if isinstance(record, Schema) and record.name in _TELLERS:
            if record.id not in names:
                types.register(_unknown(get_types_from_msg(record.data.decode(), record.name), types.fielddefs))
            names[record.id] = record.name
        elif isinstance(record, Channel) and record.schema_id in names:
            channels[record.id] = names[record.schema_id], record.topic
        elif isinstance(record, Message) and record.channel_id in channels:
            kind, topic = channels[record.channel_id]
            yield kind, topic, record.log_time, types.deserialize_cdr(record.data, kind)
        elif isinstance(record, DataEnd):  # whose checksum was compared: nothing before it was left out
            has_all_data = True
        elif isinstance(record, Footer):
            flown.is_whole = has_all_data


def _end_of_records(written: bytes) -> int:
    """Where the last record ends that was written whole; the library reads half a record as if it were one."""
    end = _MAGIC_BYTES
    while end + _RECORD_HEAD.size <= len(written):
        kind, content_bytes = _RECORD_HEAD.unpack_from(written, end)
        if kind == _NO_RECORD:
            return end
        if end + _RECORD_HEAD.size + content_bytes > len(written):
            return end
        end += _RECORD_HEAD.size + content_bytes
    return len(written) if written[end : end + 1] == _MAGIC_BEGINS else end  # magic, or a head that was cut


def _unknown(found: dict[str, Any], known: Any) -> dict[str, Any]:
    return {name: definition for name, definition in found.items() if name not in known}
