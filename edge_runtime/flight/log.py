"""The record of one flight as JSON lines: what was inspected, dropped, failed and held; draws and decodes nothing.

Every line is one JSON object, flushed as it is written, so that a crash loses at most the line being written. Its
``kind`` says what it is:

    flight     opens a flight: bundle, source, start, and the schema of its reports
    frame      one report, with a small JPEG of its frame where the page is to show it
    failure    one frame that could not be inspected, and why
    end        the counters of the queue and the memory plan

A file is only ever appended to. A second flight in the same file opens with its own ``flight`` line; the last one
is the one that is read.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_runtime.errors import FlightLogError
from edge_runtime.memory.monitor import LevelChange
from edge_runtime.memory.plan import MemoryPlan
from edge_runtime.reports.report import InspectionReport, json_from_report, report_from_json
from edge_runtime.reports.schema import BRIDGE, ReportSchema, schema_from_document
from edge_runtime.typed_json import dataclass_from_json

_OPENING = b'{"kind":"flight"'  # of the line that opens a flight
_REPORTED = b'{"kind":"frame"'


@dataclass(frozen=True)
class FlightHeader:
    """What flew: the bundle in words, where the frames came from, and when."""

    bundle: str = ""  # "reference, asymmetric-int4, onnxruntime"
    source: str = ""  # "rendered flight", "/dev/video0"
    started_unix_s: float | None = None
    schema: ReportSchema = BRIDGE  # what the bundle reported on; logs from before schemas say nothing of it


@dataclass(frozen=True)
class FlightRecord:
    """One inspected frame; ``index`` counts the frames received from 0, so a missing one was dropped or skipped."""

    index: int
    stamp_s: float | None  # seconds since the flight's first frame that has a time; None where this one has none
    source: str
    report: InspectionReport
    image: bytes | None = None  # JPEG, at most 640 pixels wide in a log
    is_annotated: bool = False  # the findings are drawn into the image; not so in a log
    place: str = ""  # where the frame was taken, in words

    @property
    def when(self) -> str:
        """Its time for people, empty where it has none."""
        return "" if self.stamp_s is None else f"{self.stamp_s:.1f} s"


@dataclass(frozen=True)
class FrameFailure:
    """One frame that was received and could not be inspected; ``reason`` is the error's message."""

    index: int
    stamp_s: float | None
    source: str
    reason: str


@dataclass(frozen=True)
class FlightEnd:
    """Counters of the queue and the memory plan, as they stood when the flight ended."""

    received: int
    dropped: int  # replaced by a newer frame before the inspector was free
    failed: int
    memory_plan: MemoryPlan | None = None
    skipped: int = 0  # by rule: they showed nothing new
    level_changes: tuple[LevelChange, ...] = ()  # what was given up for memory or for heat, and taken back


@dataclass(frozen=True)
class Flight:
    """A flight as it was read back; ``end`` is None where the flight was cut short.

    It is ``number`` of ``count``, from 1, in its file, whose other flights have ``reports_elsewhere``.
    """

    header: FlightHeader = field(default_factory=FlightHeader)
    records: tuple[FlightRecord, ...] = ()
    failures: tuple[FrameFailure, ...] = ()
    end: FlightEnd | None = None
    number: int = 1
    count: int = 1
    reports_elsewhere: int = 0


def choose_flight(path: str | Path, count: int, number: int | None) -> int:
    """The number of the flight to be read, from 1: ``number`` of ``count``, the last one where that is None.

    Raises:
        FlightLogError: there is no such flight.
    """
    if number is not None and not 1 <= number <= count:
        raise FlightLogError(f"{path} holds {count} flight{'' if count == 1 else 's'}, and none has number {number}")
    return number or count


class FlightLog:
    """Appends one flight to a file; close it, or use it in a ``with`` statement. One thread owns it.

    Raises:
        FlightLogError: the file is no flight log, or cannot be opened or written (a full disk, say); every ``write_*``
            raises it too, and so does ``close``.
    """

    def __init__(self, path: str | Path, header: FlightHeader | None = None) -> None:
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _check_appendable(self._path)
            self._file = self._path.open("ab")
        except FlightLogError:
            raise
        except OSError as error:
            raise self._write_error(error) from error
        # A newline of our own ends the line that a crash may have cut in the flight before.
        try:
            said = header or FlightHeader()
            opening = {**asdict(said), "schema": said.schema.document()}
            self._write("flight", opening, lead=b"\n" if self._file.tell() else b"")
        except FlightLogError:
            with suppress(FlightLogError):
                self.close()
            raise

    def write_record(self, record: FlightRecord) -> None:
        """Append one report."""
        document: dict[str, Any] = {
            "index": record.index,
            "stamp_s": record.stamp_s,
            "source": record.source,
            "report": json_from_report(record.report),
        }
        if record.place:
            document["place"] = record.place
        if record.image is not None:
            document["image"] = base64.b64encode(record.image).decode("ascii")
        self._write("frame", document)

    def write_failure(self, failure: FrameFailure) -> None:
        """Append one frame that could not be inspected."""
        self._write("failure", asdict(failure))

    def write_end(self, end: FlightEnd) -> None:
        """Append the counters and the memory plan; nothing follows them in this flight."""
        self._write("end", asdict(end))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:  # what could not be written is tried once more; the file is closed all the same
            raise self._write_error(error) from error

    def __enter__(self) -> FlightLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, document: Mapping[str, Any], lead: bytes = b"") -> None:
        try:
            line = json.dumps({"kind": kind, **document}, separators=(",", ":"), allow_nan=False)
            self._file.write(lead + line.encode("ascii") + b"\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # ValueError: a number that is not finite, or the log is closed
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> FlightLogError:
        return FlightLogError(f"cannot write flight log {self._path}: {error}; free the disk or name another file")


def _check_appendable(path: Path) -> None:
    if not path.is_file():  # there is none yet, or it is a device, which may give anything
        return
    with path.open("rb") as file:
        head = file.read(len(_OPENING))
    if not _OPENING.startswith(head):  # a crash may have cut the very first line
        raise FlightLogError(f"{path} is no flight log, as it does not open with a flight; name another file")


def load_flight(path: str | Path, number: int | None = None) -> Flight:
    """Read a flight of a log, the last one unless its ``number`` is given, from 1.

    Where a crash cut its last line short, the flight lacks that line.

    Raises:
        FlightLogError: the file cannot be read, is no flight log, has no such flight, or is damaged before the
            flight's end.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]  # what follows the last newline is empty, or a cut line
    except OSError as error:
        raise FlightLogError(
            f"cannot read flight log {path}: {error.strerror or error}; name a log's .jsonl or a recording's .mcap file"
        ) from error
    starts = [number for number, line in enumerate(lines) if line.startswith(_OPENING)]
    if not starts:
        raise FlightLogError(f"{path} is no flight log: no line of it opens a flight")
    chosen = choose_flight(path, len(starts), number)
    first, end = starts[chosen - 1], [*starts[1:], len(lines)][chosen - 1]
    found: dict[str, list[Any]] = {kind: [] for kind in _PARSERS}
    try:
        for at in range(first, end):
            if chosen < len(starts) and at == end - 1 and not lines[at].endswith(b"}"):
                break  # a crash cut it, and the next flight ended the line
            document = json.loads(lines[at], parse_float=_finite_float, parse_constant=_finite_float)
            header = found["flight"][0] if found["flight"] else FlightHeader()
            found[document["kind"]].append(_PARSERS[document["kind"]](document, header))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FlightLogError(f"flight log {path} is damaged at line {at + 1}: {error!r}") from error
    return Flight(
        header=found["flight"][0],
        records=tuple(found["frame"]),
        failures=tuple(found["failure"]),
        end=found["end"][-1] if found["end"] else None,
        number=chosen,
        count=len(starts),
        reports_elsewhere=sum(line.startswith(_REPORTED) for line in (*lines[:first], *lines[end:])),
    )


def _header_from_json(document: Mapping[str, Any], _: FlightHeader) -> FlightHeader:
    header = dataclass_from_json({name: value for name, value in document.items() if name != "schema"}, FlightHeader)
    return replace(header, schema=schema_from_document(document["schema"])) if "schema" in document else header


def _record_from_json(document: Mapping[str, Any], header: FlightHeader) -> FlightRecord:
    image = document.get("image")
    return FlightRecord(
        index=int(document["index"]),
        stamp_s=None if document["stamp_s"] is None else float(document["stamp_s"]),
        source=str(document["source"]),
        report=report_from_json(document["report"], header.schema),
        image=None if image is None else base64.b64decode(image, validate=True),
        place=str(document.get("place", "")),
    )


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


_PARSERS: Mapping[str, Callable[[Any, FlightHeader], Any]] = {
    "flight": _header_from_json,
    "frame": _record_from_json,
    "failure": lambda document, _: dataclass_from_json(document, FrameFailure),
    "end": lambda document, _: dataclass_from_json(document, FlightEnd),
}
