"""A flight log keeps what was written, loses at most the line a crash cut, and says where it is damaged."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.errors import FlightLogError
from edge_runtime.flight.log import FlightEnd, FlightHeader, FlightLog, FlightRecord, FrameFailure, load_flight
from edge_runtime.memory.monitor import LevelChange
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.reports.report import Finding, InspectionReport, Region, Timings

HEADER = FlightHeader(bundle="reference, asymmetric-int4", source="rendered flight", started_unix_s=1.5)
CRACK = Finding("crack", "severe", Region(0.1, 0.2, 0.5, 0.6), 0.87, "crack 3 mm wide", "schedule repair")
RECORD = FlightRecord(
    3, 0.25, "camera", InspectionReport((CRACK,), False, 41, Timings(total_ms=180.5)), b"\xff\xd8jpeg"
)
FAILURE = FrameFailure(4, 0.5, "camera", "encoding 'bayer' is not supported")
END = FlightEnd(
    received=9,
    dropped=7,
    failed=1,
    memory_plan=MemoryPlan((MemoryPlanItem("weights", 10, 12),), budget_bytes=20),
    level_changes=(LevelChange(1.5, "smaller context", "memory is low"),),
)


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "flights" / "log.jsonl"


def write_whole_flight(path: Path) -> None:
    with FlightLog(path, HEADER) as log:
        log.write_record(RECORD)
        log.write_failure(FAILURE)
        log.write_end(END)


def test_a_flight_reads_back_as_it_was_written(log_path: Path) -> None:
    write_whole_flight(log_path)
    flight = load_flight(log_path)
    assert flight.header == HEADER
    assert flight.records == (RECORD,)
    assert flight.failures == (FAILURE,)
    assert flight.end == END


def test_every_record_is_on_disk_before_the_next_one(log_path: Path) -> None:
    with FlightLog(log_path) as log:
        log.write_record(RECORD)
        assert load_flight(log_path).records == (RECORD,)


def test_a_line_cut_by_a_crash_is_left_out(log_path: Path) -> None:
    with FlightLog(log_path, HEADER) as log:
        log.write_record(RECORD)
        log.write_record(RECORD)
    log_path.write_bytes(log_path.read_bytes()[:-20])
    assert load_flight(log_path).records == (RECORD,)
    assert load_flight(log_path).end is None


def test_a_flight_after_a_crashed_one_reads_back_whole(log_path: Path) -> None:
    with FlightLog(log_path) as log:
        log.write_record(RECORD)
    log_path.write_bytes(log_path.read_bytes()[:-20])
    write_whole_flight(log_path)
    assert load_flight(log_path).end == END


def test_an_earlier_flight_in_the_file_is_kept_and_the_last_one_is_read(log_path: Path) -> None:
    write_whole_flight(log_path)
    first = log_path.read_bytes()
    FlightLog(log_path).close()
    assert log_path.read_bytes().startswith(first)
    assert load_flight(log_path).records == ()


def test_names_that_are_no_unicode_survive(log_path: Path) -> None:
    with FlightLog(log_path) as log:
        log.write_failure(FrameFailure(0, 0.0, "bad\udcffname.jpg", "line\nbreak"))
    assert load_flight(log_path).failures[0].source == "bad\udcffname.jpg"


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"kind":"selfie"}',
        b'{"kind":"frame","index":1}',
        b'{"kind":"failure","index":0,"stamp_s":1e999,"source":"","reason":""}',
        b'{"kind":"failure","index":0,"stamp_s":NaN,"source":"","reason":""}',
        b'{"kind":"end","received":"many","dropped":0,"failed":0,"memory_plan":null}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_damage_inside_a_flight_is_an_error_that_names_the_line(log_path: Path, line: bytes) -> None:
    with FlightLog(log_path) as log:
        log.write_record(RECORD)
    with log_path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(FlightLogError, match="line 3"):
        load_flight(log_path)


def test_an_image_that_is_no_base64_is_damage(log_path: Path) -> None:
    write_whole_flight(log_path)
    log_path.write_bytes(log_path.read_bytes().replace(b'"image":"', b'"image":"<script>'))
    with pytest.raises(FlightLogError, match="line 2"):
        load_flight(log_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"hello\n", b'{"kind":"frame"}\n', b'{"kind":"fli'])
def test_a_file_that_opens_no_flight_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(content)
    with pytest.raises(FlightLogError, match="no flight log"):
        load_flight(path)


@pytest.mark.parametrize("content", [b"\n", b"# Read me\n", b'{"kind":"frame"}\n'])
def test_a_file_of_something_else_is_not_appended_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "readme.md"
    path.write_bytes(content)
    with pytest.raises(FlightLogError, match=r"readme\.md is no flight log.*name another"):
        FlightLog(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"kind":"fli', b'{"kind":"flight","bundle":'])
def test_a_log_that_was_cut_in_its_first_line_is_appended_to(log_path: Path, content: bytes) -> None:
    log_path.parent.mkdir()
    log_path.write_bytes(content)
    write_whole_flight(log_path)
    assert load_flight(log_path).records == (RECORD,)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match=r"nowhere\.jsonl"):
        load_flight(tmp_path / "nowhere.jsonl")


def test_a_number_that_is_not_finite_is_refused_and_leaves_the_log_whole(log_path: Path) -> None:
    with FlightLog(log_path) as log:
        with pytest.raises(FlightLogError):
            log.write_failure(FrameFailure(0, float("nan"), "", ""))
        log.write_failure(FAILURE)
    assert load_flight(log_path).failures == (FAILURE,)


def test_writing_to_a_closed_log_is_an_error(log_path: Path) -> None:
    log = FlightLog(log_path)
    log.close()
    with pytest.raises(FlightLogError, match="closed"):
        log.write_record(RECORD)


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """A disk that is full, as far as this process is concerned."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_that_says_so_and_leaves_no_file_open() -> None:
    with pytest.raises(FlightLogError, match="No space left") as refusal:  # which would keep it, as it knows the log
        FlightLog("/dev/full", HEADER)
    assert refusal.value.__cause__ is not None
    assert "/dev/full" not in {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}


def test_a_disk_that_fills_in_flight_is_the_same_error_when_the_log_is_closed(log_path: Path) -> None:
    log = FlightLog(log_path, HEADER)
    with no_file_larger_than(log_path.stat().st_size + 10):
        with pytest.raises(FlightLogError, match="free the disk"):
            log.write_record(RECORD)
        with pytest.raises(FlightLogError, match="free the disk"):
            log.close()
    log.close()
    assert load_flight(log_path).header == HEADER


def test_a_directory_in_the_way_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match="cannot write flight log"):
        FlightLog(tmp_path)


def test_every_line_is_plain_json_on_its_own(log_path: Path) -> None:
    write_whole_flight(log_path)
    kinds = [json.loads(line)["kind"] for line in log_path.read_text("ascii").splitlines()]
    assert kinds == ["flight", "frame", "failure", "end"]


def test_a_frame_without_a_time_and_one_with_a_place_are_read_back(tmp_path: Path) -> None:
    records = (
        FlightRecord(0, None, "a.jpg", InspectionReport()),
        FlightRecord(1, 3.5, "b.jpg", InspectionReport(), place="-33.500000, 151.250000"),
    )
    with FlightLog(tmp_path / "flight.jsonl") as log:
        for record in records:
            log.write_record(record)
        log.write_failure(FrameFailure(2, None, "c.jpg", "is damaged"))
    flight = load_flight(tmp_path / "flight.jsonl")
    assert flight.records == records
    assert flight.failures[0].stamp_s is None
