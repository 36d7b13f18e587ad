"""Matches reports with the frames they are about and keeps the flight log; listens to no topic, prints nothing."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.flight.log import FlightEnd, FlightHeader, FlightLog, FlightRecord, FrameFailure
from edge_runtime.memory.plan import MemoryPlan
from edge_runtime.reports.annotate import thumbnail_jpeg
from edge_runtime.reports.report import InspectionReport
from edge_runtime.ros.messages import Frame
from edge_runtime.stream.frame_counters import Counters

_PENDING = 64  # thumbnails kept for a report that may still come: 13 s of a camera at 5 frames/s, 3 MB


class Logbook:
    """One flight's log; must be closed, and used by one thread.

    Raises:
        FlightLogError: the log cannot be written.
    """

    def __init__(self, path: Path, header: FlightHeader) -> None:
        self._log = FlightLog(path, header)
        self._source = header.source
        self._thumbnails: dict[int, bytes] = {}  # by stamp, oldest first
        self._first_ns: int | None = None
        self.reports = 0
        self.findings = 0

    def keep_frame(self, stamp_ns: int, frame: Frame) -> None:
        """Remember a frame until its report comes, or until it is too old to be waited for."""
        self._seconds(stamp_ns)
        self._thumbnails[stamp_ns] = thumbnail_jpeg(frame)
        while len(self._thumbnails) > _PENDING:
            del self._thumbnails[next(iter(self._thumbnails))]

    def keep_report(self, stamp_ns: int, index: int, report: InspectionReport) -> float:
        """Log a report with its frame, where that was seen; seconds since the first frame."""
        stamp_s = self._seconds(stamp_ns)
        image = self._thumbnails.pop(stamp_ns, None)
        self._log.write_record(FlightRecord(index, stamp_s, self._source, report, image))
        self.reports += 1
        self.findings += len(report.findings)
        return stamp_s

    def keep_failure(self, stamp_ns: int, index: int, reason: str) -> None:
        """Log why there is no report of a frame."""
        self._thumbnails.pop(stamp_ns, None)
        self._log.write_failure(FrameFailure(index, self._seconds(stamp_ns), self._source, reason))

    def _seconds(self, stamp_ns: int) -> float:
        """Since the first frame of which this was told anything."""
        if self._first_ns is None:
            self._first_ns = stamp_ns
        return (stamp_ns - self._first_ns) / 1e9

    def close(self, counters: Counters | None, memory_plan: MemoryPlan | None) -> None:
        """Write how the flight ended, as far as that is known, and close the log."""
        with self._log:
            if counters is not None:
                self._log.write_end(
                    FlightEnd(counters.received, counters.dropped, counters.failed, memory_plan, counters.skipped)
                )
