"""One self-contained HTML page from a flight log, for reading on a desk or a phone; inspects and measures nothing.

The look and the script are in ``page.html``; the words and numbers come from here, the pictures from
``flight_findings.py``, the charts from ``flight_charts.py``. The page's own policy forbids it to load anything, and to
run any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from edge_runtime.errors import FlightLogError
from edge_runtime.flight.log import Flight, FrameFailure, load_flight
from edge_runtime.flight.page.charts import NOTHING, STEPS, findings_chart, latency_chart, loss_chart, mark_of, step_ms
from edge_runtime.flight.page.defects import defects_of, defects_section
from edge_runtime.flight.page.findings import choose_pictures, clean_section, findings_section, matrix_section
from edge_runtime.flight.recording import SUFFIX as RECORDING_SUFFIX
from edge_runtime.flight.recording import load_recording
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem, format_bytes
from edge_runtime.memory.telemetry import latency_statistics
from edge_runtime.reports.annotate import severity_colours
from edge_runtime.reports.schema import ReportSchema

_UNSEEN = 0.005  # share of a frame from which on it is said that it was not looked at
_TITLE = "Flight report: "  # in the head of every page, of this version and of earlier ones
_HEAD_BYTES = 4096
_WHAT_IT_IS = (
    "What a model found in pictures, for an inspector to look at; where it found nothing, there may be something. "
    "Confidence is the model's own probability, and is not calibrated."
)


def write_page(log_path: str | Path, html_path: str | Path, number: int | None = None) -> None:
    """Write the page of a flight in ``log_path``: a flight log, or a recording by its suffix ``.mcap``.

    A file may hold several flights; the last one is read unless a ``number``, from 1, is given.

    Raises:
        FlightLogError: the log cannot be read, the page cannot be written, the two are one file, or the page's file is
            there and is no flight's page.
        MissingDependencyError: the libraries that read recordings are not installed.
    """
    load = load_recording if Path(log_path).suffix == RECORDING_SUFFIX else load_flight
    page = page_from_flight(load(log_path, number))
    _check_apart(log_path, html_path)
    _check_replaceable(html_path)
    _write(html_path, page, "w")


def check_page(log_path: str | Path, html_path: str | Path) -> None:
    """Raise :class:`FlightLogError` where no page can be written, while there is time to name another."""
    _check_apart(log_path, html_path)
    _check_replaceable(html_path)
    was_there = os.path.exists(html_path)
    _write(html_path, "", "a")
    if not was_there:
        os.unlink(html_path)


def _check_apart(log_path: str | Path, html_path: str | Path) -> None:
    if os.path.realpath(log_path) == os.path.realpath(html_path):
        raise FlightLogError(f"{html_path} is the flight's log, which its page would overwrite; name another --page")


def _check_replaceable(html_path: str | Path) -> None:
    """Raise where a file is there that holds something else than a flight's page; devices may be written to."""
    if not os.path.isfile(html_path):
        return
    try:
        with open(html_path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise FlightLogError(f"cannot read {html_path}, which is there already: {error}; name another file") from error
    if head and _TITLE.encode() not in head:
        raise FlightLogError(
            f"{html_path} is there already, and is no flight report: it would be overwritten; name another --page"
        )


def _write(html_path: str | Path, text: str, mode: str) -> None:
    try:
        Path(html_path).parent.mkdir(parents=True, exist_ok=True)
        with open(html_path, mode, encoding="utf-8", errors="replace") as file:  # file names need not be Unicode
            file.write(text)
    except OSError as error:
        raise FlightLogError(f"cannot write page {html_path}: {error}; free the disk or name another file") from error


def page_from_flight(flight: Flight) -> str:
    """The page as one string of HTML."""
    template = files("edge_runtime.flight.page").joinpath("page.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    counters = _counters(flight)
    pictures = choose_pictures(flight.records)
    sections = (
        _header(flight, counters),
        _timeline(flight, counters, pictures),
        matrix_section(flight.records, flight.header.schema),
        defects_section(flight.records, pictures),
        findings_section(flight.records, pictures, flight.header.schema),
        clean_section(flight.records, pictures),
        _latency(flight),
        _losses(flight, counters),
        _memory_plan(flight.end.memory_plan if flight.end else None),
    )
    return Template(template).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'",
        title=f"{_TITLE}{_verdict(flight)}",
        severity_styles=_severity_styles(flight.header.schema),
        body="\n".join(section for section in sections if section),
    )


def _severity_styles(schema: ReportSchema) -> str:
    """A rule for each severity: its colour, and that of letters on it."""
    rules = []
    for level, (red, green, blue) in enumerate(severity_colours(len(schema.severities))):
        ink = "#1a1408" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"
        rules.append(f".level-{level} {{ --severity: rgb({red}, {green}, {blue}); --on: {ink}; }}")
    return "\n".join(rules)


@dataclass(frozen=True)
class _Counters:
    received: int
    dropped: int
    failed: int
    skipped: int = 0


def _counters(flight: Flight) -> _Counters:
    """The log's counters; where a crash kept them from being written, what the frames' indices tell."""
    seen = [record.index for record in flight.records] + [failure.index for failure in flight.failures]
    indices = max(seen, default=-1) + 1
    if flight.end is None:
        return _Counters(indices, indices - len(seen), len(flight.failures))
    return _Counters(max(flight.end.received, indices), flight.end.dropped, flight.end.failed, flight.end.skipped)


def _verdict(flight: Flight) -> str:
    if not flight.records:
        return "No frame could be inspected" if flight.failures else "No frame arrived"
    inspected = _count(len(flight.records), "inspected frame")
    cut = sum(1 for record in flight.records if mark_of(record) == "cut")
    were_cut = f"{_count(cut, 'answer')} {_were(cut)} {NOTHING['cut']}"
    if cut == len(flight.records):
        return f"{were_cut} in {inspected}"
    return f"{_found(flight)} in {inspected}{f'; {were_cut}' if cut else ''}"


def _found(flight: Flight) -> str:
    counts = Counter(defect.level for defect in defects_of(flight.records))
    if not counts:
        return "Nothing found"
    worst = max(counts)
    others = f" and {counts.total() - counts[worst]} milder" if counts.total() > counts[worst] else ""
    return f"{_count(counts[worst], f'{escape(flight.header.schema.severity_names[worst])} finding')}{others}"


def _header(flight: Flight, counters: _Counters) -> str:
    facts = [escape(fact) for fact in (flight.header.bundle, flight.header.source) if fact]
    if flight.header.started_unix_s is not None:
        facts.append(f"{datetime.fromtimestamp(flight.header.started_unix_s, timezone.utc):%Y-%m-%d %H:%M} UTC")
    stamps_s = [record.stamp_s for record in flight.records if record.stamp_s is not None]
    if stamps_s:
        facts.append(f"{max(stamps_s):.1f} s of flight")
    cut = '<p class="notice">The log has no end: the flight was cut short, and its counters are inferred.</p>'
    notices = cut if flight.end is None else ""
    unseen = max((record.report.unseen_share for record in flight.records), default=0.0)
    if unseen > _UNSEEN:
        notices += f'<p class="notice">Up to {unseen:.0%} of a frame was not looked at: nothing is known of it.</p>'
    if flight.count > 1:
        notices += f'<p class="notice">{_others(flight)}</p>'
    tiles = (_frames_tile(flight, counters), _findings_tile(flight), _latency_tile(flight), _memory_tile(flight))
    return f"""<header><span class="soft">Flight report</span><h1>{_verdict(flight)}</h1>
<ul class="facts soft">{"".join(f"<li>{fact}</li>" for fact in facts)}</ul>{notices}
<p class="soft">{_WHAT_IT_IS}</p>
<div class="tiles">{"".join(tiles)}</div></header>"""


def _others(flight: Flight) -> str:
    return (
        f"The file holds {flight.count} flights, of which this is no. {flight.number}; the others have "
        f"{_count(flight.reports_elsewhere, 'report')}. <code>edge-runtime report FILE --flight N</code> shows them."
    )


def _tile(name: str, number: str, note: str) -> str:
    return f'<div class="tile"><span>{name}</span><b>{number}</b><span>{note}</span></div>'


def _frames_tile(flight: Flight, counters: _Counters) -> str:
    return _tile("frames inspected", str(len(flight.records)), f"of {counters.received} received")


def _findings_tile(flight: Flight) -> str:
    frames = sum(1 for record in flight.records if record.report.findings)
    return _tile("findings", str(len(defects_of(flight.records))), f"in {_count(frames, 'frame')}")


def _latency_tile(flight: Flight) -> str:
    if not flight.records:
        return _tile("frame to report", "–", "nothing to time")
    latency = latency_statistics(record.report.timings.total_ms for record in flight.records)
    return _tile("frame to report, median", _ms(latency.median_ms), f"9 of 10 within {_ms(latency.p90_ms)}")


def _memory_tile(flight: Flight) -> str:
    memory_plan = flight.end.memory_plan if flight.end else None
    if memory_plan is None:
        return _tile("memory", "–", "not recorded")
    note = (
        "no budget set" if memory_plan.budget_bytes is None else f"of {format_bytes(memory_plan.budget_bytes)} budget"
    )
    if _is_measured(memory_plan):
        return _tile("memory measured", format_bytes(memory_plan.measured_bytes), note)
    return _tile("memory planned", format_bytes(memory_plan.planned_bytes), note)


def _timeline(flight: Flight, counters: _Counters, pictured: Container[int]) -> str:
    if not counters.received:
        return ""
    inspected = {record.index for record in flight.records}
    failed = {failure.index for failure in flight.failures}
    marks = [_swatch(mark, meaning) for mark, meaning in NOTHING.items()]
    marks += [
        f'<li title="{escape(term.definition)}"><i class="level-{level}"></i>{escape(term.name)}</li>'
        for level, term in enumerate(flight.header.schema.severities)
    ]
    otherwise = "not inspected" if counters.skipped else "dropped"
    marks += [_swatch("dropped", "dropped or skipped" if counters.skipped else "dropped"), _swatch("failed", "failed")]
    return f"""<section><h2>Timeline</h2>
<p class="soft">Every frame received, in order. The taller a bar, the graver the frame's worst finding; the strip below
marks frames that were not inspected.</p>
<div class="panel"><div class="plot">
<div class="lane">{findings_chart(flight.records, counters.received, pictured)}</div>
<div class="strip">{loss_chart(inspected, failed, counters.received, otherwise)}</div>
<div class="axis"><span>frame 0</span><span>frame {counters.received - 1}</span></div>
</div><ul class="legend">{"".join(marks)}</ul></div></section>"""


def _latency(flight: Flight) -> str:
    if not flight.records:
        return ""
    timings = [record.report.timings for record in flight.records]
    total = latency_statistics(timing.total_ms for timing in timings)
    rows = ""
    for step in (*STEPS, "total"):
        of_step = latency_statistics(step_ms(timing, step) for timing in timings)
        cells = "".join(
            f"<td>{value:.1f}</td>" for value in (of_step.median_ms, of_step.p90_ms, of_step.p99_ms, of_step.max_ms)
        )
        name = "<b>frame to report</b>" if step == "total" else f'<i style="--swatch:var(--{step})"></i>{step}'
        rows += f'<tr><th scope="row">{name}</th>{cells}</tr>'
    return f"""<section><h2>Latency</h2>
<p class="soft">A column a report, stacked from its steps. The dashed line is the median.</p>
<div class="panel"><div class="plot with-axis">
<div class="axis y"><span>{_ms(total.max_ms)}</span><span>{_ms(total.max_ms / 2)}</span><span>0</span></div>
<div class="tall">{latency_chart(flight.records, total.median_ms, total.max_ms)}</div></div>
<table class="steps"><caption>Milliseconds</caption><thead><tr><td></td>
<th scope="col">median</th><th scope="col">90 %</th><th scope="col">99 %</th>
<th scope="col">longest</th></tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _losses(flight: Flight, counters: _Counters) -> str:
    if not counters.received:
        return ""
    dropped = "No frame was dropped."
    if counters.dropped:
        share = f"{counters.dropped} of {counters.received} frames ({counters.dropped / counters.received:.0%})"
        dropped = f"{share} {_were(counters.dropped)} dropped: a newer one arrived before the inspector was free."
    skipped = ""
    if counters.skipped:
        skipped = f"{_count(counters.skipped, 'frame')} showed nothing new and {_were(counters.skipped)} skipped."
    failed = f"{_count(counters.failed, 'frame')} failed." if counters.failed else "None failed."
    return f"""<section><h2>Frames not inspected</h2><p class="soft">{dropped} {skipped} {failed}</p>
{_failures_table(flight.failures)}</section>"""


def _failures_table(failures: tuple[FrameFailure, ...]) -> str:
    by_reason: dict[str, list[int]] = defaultdict(list)
    for failure in failures:
        by_reason[failure.reason].append(failure.index)
    rows = "".join(
        f'<tr><td class="left">{escape(reason)}</td><td>{len(indices)}</td><td>{indices[0]}</td></tr>'
        for reason, indices in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    )
    if not rows:
        return ""
    return f"""<div class="panel scroll"><table><thead><tr><th scope="col" class="left">why</th>
<th scope="col">frames</th><th scope="col">first</th></tr></thead><tbody>{rows}</tbody></table></div>"""


def _memory_plan(memory_plan: MemoryPlan | None) -> str:
    if memory_plan is None:
        return ""
    sizes_bytes = [size for item in memory_plan.items for size in (item.planned_bytes, item.measured_bytes or 0)]
    rows = "".join(_memory_plan_row(item, max(sizes_bytes)) for item in memory_plan.items)
    measured = format_bytes(memory_plan.measured_bytes) if _is_measured(memory_plan) else "–"
    foot = _sum_row("total", format_bytes(memory_plan.planned_bytes), measured)
    if memory_plan.budget_bytes is not None:
        foot += _sum_row("budget", format_bytes(memory_plan.budget_bytes), "")
    return f"""<section><h2>Memory plan</h2>
<p class="soft">What was planned before loading, and what was measured in flight.</p>
<div class="panel"><table class="memory-plan"><thead><tr><td></td><th scope="col">planned</th>
<th scope="col">measured</th><td class="bar"></td></tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>
<ul class="legend">{_swatch("prefill", "planned")}{_swatch("vision", "measured")}</ul></div></section>"""


def _memory_plan_row(item: MemoryPlanItem, largest_bytes: int) -> str:
    measured = "–" if item.measured_bytes is None else format_bytes(item.measured_bytes)
    bars = "".join(
        f'<div class="{kind}"><i style="width:{100 * size_bytes / max(largest_bytes, 1):.2f}%"></i></div>'
        for kind, size_bytes in (("planned", item.planned_bytes), ("measured", item.measured_bytes))
        if size_bytes is not None
    )
    return f"""<tr><th scope="row">{escape(item.name)}</th><td>{format_bytes(item.planned_bytes)}</td>
<td>{measured}</td><td class="bar">{bars}</td></tr>"""


def _sum_row(name: str, planned: str, measured: str) -> str:
    return f'<tr><th scope="row">{name}</th><td>{planned}</td><td>{measured}</td><td class="bar"></td></tr>'


def _is_measured(memory_plan: MemoryPlan) -> bool:
    return any(item.measured_bytes is not None for item in memory_plan.items)


def _swatch(colour: str, label: str) -> str:
    return f'<li><i style="--swatch:var(--{colour})"></i>{label}</li>'


def _ms(duration_ms: float) -> str:
    return f"{duration_ms:.0f} ms" if duration_ms >= 10 else f"{duration_ms:.1f} ms"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
