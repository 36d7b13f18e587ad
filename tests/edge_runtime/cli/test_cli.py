"""A command answers on stdout, complains in one line on stderr, and its exit code says which it was."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest

import edge_runtime
from edge_runtime.cli import main
from edge_runtime.flight.log import FlightLog, load_flight
from edge_runtime.loaded_bundle import LoadedBundle
from edge_runtime.reports.report import report_from_json
from edge_runtime.reports.schema import load_schema
from edge_runtime.vision.image_processors import ImageLayout
from edge_runtime.vision.resampling import Float32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), noise)
    return folder


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_inspect_prints_a_report_an_image(tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), str(photos / "0.jpg"), str(photos / "1.jpg")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("0.jpg: ") == printed.out.count("1.jpg: ") == 1
    assert printed.err == ""


def test_inspect_prints_reports_that_programs_can_read(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_bundle), str(photos / "0.jpg"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"].endswith("0.jpg")
    assert report_from_json(document["report"]).tokens > 0


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_inspected(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:300])
    assert main(["inspect", str(tiny_bundle), *(str(photos / f"{index}.jpg") for index in range(3))]) == 1
    printed = capsys.readouterr()
    assert "0.jpg: " in printed.out
    assert "2.jpg: " in printed.out
    assert "1.jpg is damaged" in printed.err


def test_a_picture_that_does_not_fit_the_budget_is_refused_before_it_is_decoded(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((6000, 6000), np.uint8), (cv2.IMWRITE_PNG_COMPRESSION, 9))
    assert main(["inspect", str(tiny_bundle), str(tmp_path / "large.png"), "--budget", "240MB"]) == 1
    assert "large.png is too large: 6000x6000" in complaint(capsys)


def test_stream_prints_a_json_line_a_frame(tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(tiny_bundle), str(photos), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["index"], line["source"]) for line in lines] == [(0, "0.jpg"), (1, "1.jpg"), (2, "2.jpg")]


def test_stream_stops_after_so_many_frames(tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(tiny_bundle), str(photos), "--json", "--max-frames", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_damaged_frame_is_one_of_those_after_which_a_stream_stops(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.jpg").write_bytes(b"")
    assert main(["stream", str(tiny_bundle), str(photos), "--max-frames", "2"]) == 0
    assert "2 received, 1 reported, 0 skipped, 0 dropped, 1 failed" in capsys.readouterr().err


def test_stream_says_what_became_of_the_frames(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.jpg").write_bytes(b"")
    assert main(["stream", str(tiny_bundle), str(photos)]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "edge-runtime: frames: 3 received, 2 reported, 0 skipped, 0 dropped, 1 failed"


def test_a_stream_of_which_no_frame_was_reported_is_exit_code_1(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    assert main(["stream", str(tiny_bundle), str(photos / "0.jpg")]) == 1
    assert "1 received, 0 reported" in capsys.readouterr().err


def test_stream_writes_the_flight_log_and_the_page(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "1.jpg").write_bytes(b"")
    page = tmp_path / "flight.html"
    assert main(["stream", str(tiny_bundle), str(photos), "--page", str(page)]) == 0
    flight = load_flight(tmp_path / "flight.jsonl")
    assert [(record.index, record.source) for record in flight.records] == [(0, "0.jpg"), (2, "2.jpg")]
    assert [(failure.index, failure.source) for failure in flight.failures] == [(1, "1.jpg")]
    assert flight.end is not None
    assert (flight.end.received, flight.end.failed) == (3, 1)
    assert flight.end.memory_plan is not None
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert "1.jpg is damaged" in page.read_text()


def test_stream_with_a_log_on_a_full_disk_is_an_error(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", str(tiny_bundle), str(photos), "--log", "/dev/full"]) == 1
    assert "free the disk" in complaint(capsys)


def test_stream_does_not_write_its_page_over_its_log(
    tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "flight.jsonl"
    log.write_text("of an earlier flight")
    assert main(["stream", str(tiny_bundle), str(photos), "--page", str(log)]) == 1
    assert "which its page would overwrite; name another --page" in complaint(capsys)
    assert log.read_text() == "of an earlier flight"


def test_a_page_and_a_log_that_are_written_differently_may_still_be_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stream", "/nowhere", "photos", "--log", str(tmp_path / "same.html"), "--page", "same.html"]) == 1
    assert "name another --page" in complaint(capsys)
    assert not (tmp_path / "same.html").exists()


@pytest.mark.parametrize("page", [[], ["--page", "flight.html"], ["--page", "link.html"]])
def test_the_page_of_a_recorded_flight_is_not_written_over_its_only_log(
    tmp_path: Path, page: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "flight.html"
    FlightLog(log).close()
    (tmp_path / "link.html").symlink_to(log)
    written = log.read_bytes()
    assert main(["report", "flight.html", *page]) == 1
    assert "name another --page" in complaint(capsys)
    assert log.read_bytes() == written


@pytest.mark.parametrize("option", ["--page", "--log"])
def test_a_flight_does_not_overwrite_the_film_that_it_reads(
    photos: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film = photos / "0.jpg"
    held = film.read_bytes()
    assert main(["stream", str(photos), str(film), option, str(film)]) == 1
    assert option == "--log" or "name another" in complaint(capsys)
    assert film.read_bytes() == held


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FlightLog(tmp_path / "flight.jsonl").close()
    page = tmp_path / "flight.html"
    for _ in range(2):
        assert main(["report", str(tmp_path / "flight.jsonl")]) == 0
    capsys.readouterr()
    page.write_text("<!doctype html><title>The thesis</title>")
    assert main(["report", str(tmp_path / "flight.jsonl")]) == 1
    assert "is no flight report" in complaint(capsys)
    assert "The thesis" in page.read_text()


@pytest.mark.parametrize("redirection", [">", ">>", "2>"])
@pytest.mark.parametrize("options", [["--page", "x.html"], ["--log", "x.jsonl"]])
def test_a_log_and_results_that_are_sent_into_one_file_are_refused(
    photos: Path, tmp_path: Path, redirection: str, options: list[str]
) -> None:
    words = [sys.executable, "-m", "edge_runtime.cli", "stream", "/nowhere", str(photos), "--json", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = f"{shlex.join(words)} {redirection} x.jsonl"
    ended = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    written = (tmp_path / "x.jsonl").read_text()
    assert "goes into x.jsonl as well" in (ended.stderr or written)
    assert "{" not in written


def test_a_frame_that_failed_has_a_json_line(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.jpg").write_bytes(b"")
    assert main(["stream", str(tiny_bundle), str(photos), "--json"]) == 0
    streamed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["index"], "report" in line, "failure" in line) for line in streamed] == [
        (0, True, False),
        (1, False, True),
        (2, True, False),
    ]
    assert "1.jpg is damaged" in streamed[1]["failure"]
    assert main(["inspect", str(tiny_bundle), str(photos / "1.jpg"), "--json"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert "is damaged" in json.loads(line)["failure"]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e.jpg"


def test_no_control_character_of_a_file_s_name_reaches_the_terminal(
    tiny_bundle: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.link(photos / "0.jpg", photos / HOSTILE)
    (photos / f"damaged{HOSTILE}").write_bytes(b"")
    capfd.readouterr()
    assert main(["inspect", str(tiny_bundle), str(photos / HOSTILE), str(photos / f"damaged{HOSTILE}")]) == 1
    assert main(["stream", str(tiny_bundle), str(photos)]) == 0
    assert main(["stream", str(tiny_bundle), str(photos / f"missing{HOSTILE}")]) == 1
    printed = capfd.readouterr()
    for said in (printed.out, printed.err):
        assert "\\x1b]0;owned\\x07" in said
        assert not {character for character in said if character != "\n" and not character.isprintable()}


def test_closed_streams_are_an_error_or_silence_and_nothing_else_takes_their_place(
    tiny_bundle: Path, photos: Path
) -> None:
    def run(image: str, closed: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "edge_runtime.cli", "inspect", str(tiny_bundle), str(photos / image)]
        command, root = f"exec {shlex.join(words)} {closed}", Path(__file__).parents[3]
        return subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True, timeout=60, check=False)

    deaf = run("0.jpg", ">&-")
    assert (deaf.returncode, deaf.stdout) == (1, "")
    assert deaf.stderr.startswith("edge-runtime: stdout is closed")
    mute = run("missing.jpg", "2>&-")
    assert (mute.returncode, mute.stdout) == (1, "")


def test_a_flight_that_is_refused_leaves_no_page(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "flight.html"
    assert main(["stream", "/nowhere", str(photos), "--page", str(page)]) == 1
    assert not page.exists()


def test_a_page_that_cannot_be_written_is_refused_before_the_flight(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "file" / "page.html"
    page.parent.touch()
    assert main(["stream", "/nowhere", str(photos), "--page", str(page)]) == 1
    assert f"cannot write page {page}: " in complaint(capsys)


def test_bench_measures_every_step(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), "--frames", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"]["total_ms"]["count"] == 3
    assert 0 < document["steps"]["decode_ms"]["median_ms"] < document["steps"]["total_ms"]["median_ms"]
    decode_ms = document["steps"]["decode_ms"]["mean_ms"] * 3
    assert document["token_ms"] == pytest.approx(decode_ms / sum(document["tokens"]))


def test_bench_measures_the_frames_that_it_is_given_over_and_over(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), str(photos), "--frames", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 frames of 60x40, ")
    assert "ms to decode\n" in printed


@pytest.mark.parametrize("source", [[], ["0.jpg"], ["."], ["still"]], ids=["noise", "image", "folder", "stills"])
@pytest.mark.parametrize("frames", [1, 7])
def test_bench_looks_at_every_frame_that_it_measures(
    tiny_bundle: Path, photos: Path, source: list[str], frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "still").mkdir()
    for index in range(2):
        os.link(photos / "0.jpg", photos / "still" / f"{index}.jpg")
    was_there_already: list[bool] = []
    see = LoadedBundle.encode_image

    def note(loaded: LoadedBundle, pixels: Float32, layout: ImageLayout) -> bool:
        was_there_already.append(see(loaded, pixels, layout))
        return was_there_already[-1]

    monkeypatch.setattr(LoadedBundle, "encode_image", note)
    assert main(["bench", str(tiny_bundle), *(str(photos / name) for name in source), "--frames", str(frames)]) == 0
    assert was_there_already == [False] * (1 + frames)  # one that is not measured


def test_both_commands_say_their_version(capsys: pytest.CaptureFixture[str]) -> None:
    from engines.cli import main as build

    for command, name in ((main, "edge-runtime"), (build, "edge-engines")):
        with pytest.raises(SystemExit) as ended:
            command(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"{name} {edge_runtime.__version__}\n"


def test_a_report_on_an_image_is_cut_at_its_deadline(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", str(tiny_bundle), str(photos / "0.jpg"), "--json", "--threads", "1"]
    assert main([*command, "--deadline", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["truncated"]


def test_bench_without_a_frame_is_an_error(tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for photo in photos.iterdir():
        photo.write_bytes(b"")
    assert main(["bench", str(tiny_bundle), str(photos)]) == 1
    assert "no frame of" in capsys.readouterr().err


def test_bench_prints_a_table(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), "--frames", "1"]) == 0
    printed = capsys.readouterr().out
    assert "prefill" in printed
    assert "kv_cache" in printed


def test_doctor_finds_this_machine_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_doctor_marks_what_is_absent_and_optional_as_neither_fine_nor_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as where it is not installed
    assert main(["doctor"]) == 0
    [line] = (line for line in capsys.readouterr().out.splitlines() if " TensorRT " in line)
    assert line.startswith("--       TensorRT       none: tensorrt is not installed")
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert (checks["TensorRT"]["is_absent"], checks["TensorRT"]["is_problem"]) == (True, False)
    assert not checks["python"]["is_absent"]


def test_doctor_finds_a_whole_bundle_whole(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tiny_bundle), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert "SHA-256 as recorded" in checks["files"]["found"]
    assert not any(check["is_problem"] for check in checks.values())


def test_doctor_says_what_a_bundle_reports_on(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tiny_bundle)]) == 0
    assert "bridge: crack, corrosion, spalling" in capsys.readouterr().out


def test_doctor_finds_a_bundle_that_does_not_fit_the_budget(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tiny_bundle), "--budget", "1MB"]) == 4
    assert "PROBLEM  bundle " in capsys.readouterr().out


def test_doctor_finds_an_altered_bundle_at_fault_and_no_budget(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy / "embedding.f16").write_bytes(b"")
    assert main(["doctor", str(bundle_copy), "--budget", "1MB"]) == 1
    assert "PROBLEM  bundle " in capsys.readouterr().out


def test_doctor_finds_an_altered_bundle(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = bundle_copy / "embedding.f16"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert main(["doctor", str(bundle_copy)]) == 1
    assert "PROBLEM" in (printed := capsys.readouterr().out)
    assert "embedding.f16 was altered" in printed


@pytest.mark.parametrize(
    "command", [["inspect", "BUNDLE", "x.jpg"], ["stream", "BUNDLE", "FOLDER"], ["bench", "BUNDLE"]]
)
def test_a_missing_bundle_is_one_line_and_exit_code_1(
    command: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([{"BUNDLE": "/nowhere", "FOLDER": str(photos)}.get(word, word) for word in command]) == 1
    assert "no bundle directory /nowhere" in complaint(capsys)


def test_a_missing_source_is_one_line_and_exit_code_1(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(tiny_bundle), "/nowhere.mp4"]) == 1
    assert "there is no '/nowhere.mp4'" in complaint(capsys)


def test_a_budget_that_is_too_small_is_exit_code_4_with_the_memory_plan(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--budget", "1MB"]) == 4
    assert "kv_cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["inspect"],
        ["bench", "b", "--budget", "lots"],
        ["bench", "b", "--frames", "0"],
        ["stream", "b"],
        ["stream", "b", "0", "--page", "/"],
        ["report", "."],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2


def test_a_traceback_is_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "/nowhere", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_shows_an_example_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"edge-runtime {command} out/bundle" in printed for command in ("doctor", "inspect", "stream", "bench"))


@pytest.mark.parametrize(
    ("command", "rule"), [("inspect", "Exit code 1 if any image"), ("stream", "Exit code 0 even if some frames failed")]
)
def test_help_says_what_the_exit_code_makes_of_a_frame_that_failed(
    command: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert rule in " ".join(capsys.readouterr().out.split())


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "systemd or docker", "ssh"]
)
def test_a_flight_that_is_ended_from_outside_has_its_log_and_page_complete(
    tiny_bundle: Path, photos: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    for index in range(3, 500):
        os.link(photos / "0.jpg", photos / f"{index:05}.jpg")
    process = start("stream", str(tiny_bundle), str(photos), "--page", str(tmp_path / "flight.html"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(ending)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    summary, last = complaints.splitlines()
    assert summary.startswith("edge-runtime: frames: ")
    assert last == "edge-runtime: interrupted"
    assert load_flight(tmp_path / "flight.jsonl").end is not None
    assert (tmp_path / "flight.html").stat().st_size > 1000


def test_a_flight_whose_terminal_goes_away_has_its_log_and_page_complete(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    for index in range(3, 500):
        os.link(photos / "0.jpg", photos / f"{index:05}.jpg")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "edge_runtime.cli", "stream", str(tiny_bundle), str(photos)]
    process = subprocess.Popen(
        [*command, "--page", str(tmp_path / "flight.html")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        cwd=Path(__file__).parents[3],
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)  # as a connection that is lost: SIGHUP, and EIO for whoever writes
    assert process.wait(timeout=60) in (1, 130)
    assert load_flight(tmp_path / "flight.jsonl").end is not None
    assert (tmp_path / "flight.html").stat().st_size > 1000


def test_a_reader_that_has_seen_enough_is_no_traceback(tiny_bundle: Path, photos: Path) -> None:
    process = start("inspect", str(tiny_bundle), *[str(photos / "0.jpg")] * 300)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""


def test_a_result_that_finds_no_room_is_one_line(tiny_bundle: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edge_runtime.cli", "doctor", str(tiny_bundle)]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("edge-runtime: cannot write the result to stdout: No space left on device;")
    assert ended.stderr.count("\n") == 1


def test_inspect_reports_on_the_schema_that_is_named(
    roomy_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = min(photos.iterdir())
    assert main(["inspect", str(roomy_bundle), str(photo), "--json", "--schema", "solar-panel"]) == 0
    report = report_from_json(json.loads(capsys.readouterr().out)["report"], load_schema("solar-panel"))
    assert all(finding.boxes for finding in report.findings)


def test_a_schema_that_is_not_there_is_an_error_that_names_those_that_are(
    tiny_bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_bundle), str(min(photos.iterdir())), "--schema", "roofs"]) == 1
    assert "wind-turbine-blade" in capsys.readouterr().err
