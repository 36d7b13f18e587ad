"""What each command of ``edge-runtime`` does and prints; the library computes, ``cli`` parses and reports errors."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.cli import doctor
from edge_runtime.cli.terminal import complain, printable
from edge_runtime.errors import EdgeRuntimeError, FrameError, SourceError, UsageError
from edge_runtime.flight.log import FlightEnd, FlightHeader, FlightLog, FlightRecord, FrameFailure
from edge_runtime.flight.page.page import check_page, write_page
from edge_runtime.inspector import Inspector
from edge_runtime.language.questions import Choice, Json, Text, json_from_reply
from edge_runtime.memory.plan import format_bytes, frame_bytes
from edge_runtime.memory.telemetry import latency_statistics, read_memory
from edge_runtime.progress import telling
from edge_runtime.reports.annotate import Frame, thumbnail_jpeg
from edge_runtime.reports.report import InspectionReport, Timings, json_from_report, text_from_report
from edge_runtime.signals import holding_interrupts
from edge_runtime.stream.change_gate import GateRule
from edge_runtime.stream.loop import Rules, within
from edge_runtime.stream.source_stream import Outcome, SourceStream
from edge_runtime.stream.sources import load_image, open_source, shown
from edge_runtime.vision.image_decoding import DecodingRules

_SHORT = "; noise has little to report, so name images with defects: edge-runtime bench BUNDLE FOLDER"

_log = logging.getLogger(__name__)


def _inspect(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as inspector:
        rules = _rules(inspector, arguments)
        done = [_inspect_file(inspector, path, rules, arguments) for path in arguments.images]
        _log.info("memory\n%s", inspector.memory_plan.table())
    return 0 if all(done) else 1


def _opened(arguments: argparse.Namespace) -> Inspector:
    with telling(f"opening {shown(arguments.bundle)}"):
        return Inspector.open(arguments.bundle, arguments.budget, threads=arguments.threads, schema=arguments.schema)


def _rules(inspector: Inspector, arguments: argparse.Namespace) -> DecodingRules:
    """How pictures are decoded beside an inspector in its budget."""
    return DecodingRules(significant_bits=arguments.significant_bits).within(frame_bytes(inspector.memory_plan))


def _inspect_file(inspector: Inspector, path: str, rules: DecodingRules, arguments: argparse.Namespace) -> bool:
    as_json = arguments.json
    try:
        with telling(f"inspecting {shown(path)}"):
            report = inspector.inspect(load_image(path, rules), should_continue=within(arguments.deadline))
    except FrameError as error:  # the other images may be whole
        complain(f"edge-runtime: {error}")
        if as_json:
            print(json.dumps({"source": path, "failure": str(error)}), flush=True)
        return False
    _print_report({"source": shown(path)}, report, as_json)
    return True


def _ask(arguments: argparse.Namespace) -> int:
    form = _form_of_answer(arguments)
    if len(arguments.images) > 1:
        raise UsageError(
            f"there are {len(arguments.images)} images in one question, and the models that bundles are built of so "
            "far take one: ask about each alone"
        )
    [path] = arguments.images
    streams = isinstance(form, Text) and not arguments.json and os.isatty(1)
    goes_on, shown_already = within(None), ""

    def show(written: str) -> bool:
        nonlocal shown_already
        text = written.lstrip()
        print(printable(text[len(shown_already) :], but="\n"), end="", flush=True)
        shown_already = text
        return goes_on(written)

    with telling(f"opening {shown(arguments.bundle)}"):
        inspector = Inspector.open(arguments.bundle, arguments.budget, threads=arguments.threads)
    with inspector:
        frame = load_image(path, _rules(inspector, arguments))
        goes_on = within(arguments.deadline)  # not before the bundle is loaded
        try:
            reply = inspector.ask(frame, arguments.question, form, show if streams else goes_on)
        except ValueError as error:
            raise error if isinstance(error, EdgeRuntimeError) else UsageError(str(error)) from error
    if arguments.json:
        document = {"source": shown(path), "question": arguments.question, "answer": json_from_reply(reply)}
        print(json.dumps(document))
    elif reply.choices:
        for choice, probability in sorted(reply.choices.items(), key=lambda pair: -pair[1]):
            print(f"{probability:7.2%}  {printable(choice)}")
    else:
        print(printable(reply.text[len(shown_already) :], but="\n"))
    if reply.truncated:
        complain("edge-runtime: the answer was cut at its limit, of tokens or of time")
    return 0


def _form_of_answer(arguments: argparse.Namespace) -> Text | Choice | Json:
    if arguments.choices:
        return Choice(arguments.choices)
    if arguments.schema is None:
        return Text(arguments.max_tokens or Text.max_tokens)
    try:
        schema = json.loads(arguments.schema.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{arguments.schema} cannot be read as a JSON schema: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"{arguments.schema} is no JSON schema, but {type(schema).__name__}; expected an object")
    return Json(schema, arguments.max_tokens or Json.max_tokens)


def _stream(arguments: argparse.Namespace) -> int:
    log_path = arguments.log or (arguments.page and arguments.page.with_suffix(".jsonl"))
    _check_not_redirected_to(log_path, arguments.page)  # a flight is too long to hear of these at its end
    if arguments.page:
        check_page(log_path, arguments.page)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(arguments.source))  # cheaper to refuse than a bundle is to load
        inspector = stack.enter_context(_opened(arguments))
        source.rules = _rules(inspector, arguments)
        described = _describe(inspector.bundle.manifest)
        header = FlightHeader(described, shown(arguments.source), time.time(), inspector.schema)
        log = stack.enter_context(FlightLog(log_path, header)) if log_path else None
        rules = Rules(GateRule(arguments.skip_below), deadline_s=arguments.deadline)
        stream = stack.enter_context(closing(SourceStream(inspector, source, rules, arguments.track)))
        try:
            for count, outcome in enumerate(stream, start=1):
                _print_outcome(outcome, arguments.json)
                if log:
                    _log_outcome(log, outcome)
                if count == arguments.max_frames:
                    break
        finally:  # Ctrl-C ends a flight as well as its last frame does, and so does a terminal that goes away
            with holding_interrupts():
                counts, memory_plan = stream.counters, inspector.memory_plan
                fates = ", ".join(f"{number} {fate}" for fate, number in asdict(counts).items())
                complain(f"edge-runtime: frames: {fates}")
                if log:
                    drops, changes = (counts.dropped, counts.failed), inspector.level_changes
                    log.write_end(FlightEnd(counts.received, *drops, memory_plan, counts.skipped, changes))
                if arguments.page:
                    write_page(log_path, arguments.page)
    return 1 if counts.failed and not counts.reported else 0


def _check_not_redirected_to(*paths: Path | None) -> None:
    """Raise where the shell sends stdout or stderr into a file that is to be written: each would garble the other."""
    for path in paths:
        if path is not None and path.is_file():
            for number, stream in ((1, "stdout"), (2, "stderr")):
                if os.path.samestat(os.fstat(number), path.stat()):
                    raise UsageError(f"{stream} goes into {path} as well; name another --log, or send it elsewhere")


def _report(arguments: argparse.Namespace) -> int:
    page = arguments.page or arguments.recording.with_suffix(".html")
    write_page(arguments.recording, page, arguments.flight)
    print(json.dumps({"page": str(page)}) if arguments.json else printable(str(page)))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    frames = _frames_to_measure(arguments)
    with _opened(arguments) as inspector:
        measured = _over_and_over(frames)
        inspector.inspect(next(measured))  # binds memory
        reports = [inspector.inspect(frame) for frame in islice(measured, arguments.frames)]
        memory_plan = inspector.memory_plan
    steps = list(asdict(Timings()))
    by_step = {step: latency_statistics(getattr(report.timings, step) for report in reports) for step in steps}
    tokens = [report.tokens for report in reports]
    token_ms = sum(report.timings.decode_ms for report in reports) / max(sum(tokens), 1)
    peak_bytes = read_memory().peak_resident_bytes
    if arguments.json:
        statistics = {step: asdict(summary) for step, summary in by_step.items()}
        speed = {"steps": statistics, "tokens": tokens, "token_ms": token_ms}
        print(json.dumps({**speed, "peak_bytes": peak_bytes, "memory_plan": asdict(memory_plan)}))
        return 0
    height, width, _ = frames[0].shape
    print(f"{len(reports)} frames of {width}x{height}, {min(tokens)} to {max(tokens)} tokens a report")
    print(f"{'ms':12}{'median':>10}{'p90':>10}{'max':>10}")
    for step, summary in by_step.items():
        print(f"{step.removesuffix('_ms'):12}{summary.median_ms:10.1f}{summary.p90_ms:10.1f}{summary.max_ms:10.1f}")
    print(f"a token takes {token_ms:.2f} ms to decode{'' if arguments.source else _SHORT}")
    print(f"\n{memory_plan.table()}")
    if peak_bytes is not None:
        planned_bytes = memory_plan.planned_bytes
        print(f"at most, the process held {format_bytes(peak_bytes)}, of {format_bytes(planned_bytes)} planned")
    return 0


def _frames_to_measure(arguments: argparse.Namespace) -> list[Frame]:
    if arguments.source is None:
        return list(np.random.default_rng(0).integers(0, 256, (2, 720, 1280, 3), dtype=np.uint8))
    with open_source(arguments.source) as source:
        source.rules = DecodingRules(significant_bits=arguments.significant_bits)
        frames = list(islice(source.images(), arguments.frames))
    if not frames:
        raise SourceError(f"no frame of {shown(arguments.source)} can be read")
    return frames


def _over_and_over(frames: list[Frame]) -> Iterator[Frame]:
    """``frames`` without end; the inspector would not look again at one that equals the last, so its middle changes."""
    last = None
    for frame in cycle(frames):
        if last is not None and np.array_equal(frame, last):
            height, width, _ = frame.shape
            frame = frame.copy()
            frame[height * 3 // 8 : height // 2 + 1, width * 3 // 8 : width // 2 + 1] ^= 255
        yield frame
        last = frame


def _doctor(arguments: argparse.Namespace) -> int:
    with telling("doctor"):
        checks = doctor.examine(arguments.bundle, arguments.budget)
    if arguments.json:
        print(json.dumps([{**asdict(check), "is_problem": check.is_problem} for check in checks]))
    else:
        for check in checks:
            mark = "PROBLEM" if check.is_problem else "--" if check.is_absent else "ok"
            found = printable(check.found, but="\n")
            print(f"{mark:8} {check.name:14} {found}")
    return min((check.exit_code for check in checks if check.is_problem), default=0)  # 4 where only the budget is wrong


def _print_report(place: Mapping[str, object], report: InspectionReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**place, "report": json_from_report(report)}), flush=True)
    else:
        found = printable(text_from_report(report), but="\n")
        print(f"{printable(str(place['source']))}: {found}", flush=True)


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    place: dict[str, object] = {
        "index": outcome.index,
        "stamp_s": outcome.frame.stamp_s,
        "source": outcome.frame.name,
    }
    if outcome.frame.place:
        place["place"] = outcome.frame.place
    if outcome.report is None:
        _log.warning("failed: frame %d, %s: %s", outcome.index, outcome.frame.name, outcome.failure)
        if as_json:
            print(json.dumps({**place, "failure": outcome.failure}), flush=True)
    else:
        _print_report(place, outcome.report, as_json)


def _log_outcome(log: FlightLog, outcome: Outcome) -> None:
    place = (outcome.index, outcome.frame.stamp_s, outcome.frame.name)
    if outcome.report is None:
        log.write_failure(FrameFailure(*place, outcome.failure))
    else:
        image = thumbnail_jpeg(outcome.frame.image)
        log.write_record(FlightRecord(*place, outcome.report, image, place=outcome.frame.place))


def _describe(manifest: Manifest) -> str:
    return f"{manifest.name}, {manifest.recipe}, {manifest.target}"


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "ask": _ask,
    "stream": _stream,
    "report": _report,
    "bench": _bench,
    "doctor": _doctor,
}
