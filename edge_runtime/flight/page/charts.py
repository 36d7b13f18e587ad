"""The charts of a flight's page as SVG: what became of each frame, and where its time went; reads and writes nothing.

An SVG here holds shapes only and is stretched to whatever width the page has; the words around it are the page's, so
that they keep their size on a phone. A long flight is drawn in at most ``_MOST_COLUMNS`` columns, each showing the
worst of the frames that it stands for.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from html import escape

from edge_runtime.flight.log import FlightRecord
from edge_runtime.reports.report import Timings

STEPS = ("preprocess", "vision", "prefill", "decode")
NOTHING = {"clean": "nothing found", "cut": "cut short before any finding"}  # what marks of no finding mean

_MOST_COLUMNS = 360
_HEIGHT = {"clean": 12, "cut": 23}  # of 100
_MILDEST, _GRAVEST = 34, 100  # heights


def level_of(record: FlightRecord) -> int:
    """The gravest severity in a report, 0 for the mildest; -1 where there is no finding."""
    levels = (record.report.schema.severity_level(finding.severity) for finding in record.report.findings)
    return max(levels, default=-1)


def mark_of(record: FlightRecord) -> str:
    """The style of a report's gravest severity, ``level-0`` for the mildest; or one of :data:`NOTHING`."""
    level = level_of(record)
    return f"level-{level}" if level >= 0 else "cut" if record.report.truncated else "clean"


def _height(record: FlightRecord) -> float:
    level, highest = level_of(record), len(record.report.schema.severities) - 1
    if level < 0:
        return _HEIGHT[mark_of(record)]
    return _GRAVEST - (_GRAVEST - _MILDEST) * (highest - level) / max(highest, 1)


def summary_of(record: FlightRecord) -> str:
    """A report's findings in a line, not escaped."""
    found = (f"{f.defect_class.replace('_', ' ')} {f.severity}" for f in record.report.findings)
    return ", ".join(found) or NOTHING[mark_of(record)]


def step_ms(timings: Timings, step: str) -> float:
    """Milliseconds of one of :data:`STEPS`."""
    return float(getattr(timings, f"{step}_ms"))


def findings_chart(records: Sequence[FlightRecord], received: int, linked: Container[int]) -> str:
    """A column a received frame, as high as its worst finding is grave; none where the frame was not inspected.

    ``linked`` has the indices of the frames that the page shows under the anchor ``frame-INDEX``.
    """
    inspected = {record.index: record for record in records}
    shapes = []
    for x, indices in _columns(received):
        seen = [inspected[index] for index in indices if index in inspected]
        if not seen:
            continue
        worst = max(seen, key=_height)
        title = f"frame {worst.index}{worst.when and f', {worst.when}'}: {summary_of(worst)}"
        shape = _rect(x, 0, _height(worst), mark_of(worst), title)
        shapes.append(
            f'<a href="#frame-{worst.index}" tabindex="-1" aria-label="{escape(title)}">{shape}</a>'
            if worst.index in linked
            else shape
        )
    return _svg(received, "Worst finding of each frame, in the order of the frames", shapes)


def loss_chart(inspected: Container[int], failed: Container[int], received: int, otherwise: str = "dropped") -> str:
    """A mark for every frame received that has no report: it failed, or ``otherwise`` says what became of it."""
    shapes = []
    for x, indices in _columns(received):
        lost = [index for index in indices if index not in inspected]
        if lost:
            has_failed = any(index in failed for index in lost)
            fate = "failed" if has_failed else otherwise
            title = (
                f"frame {lost[0]}: {fate}" if len(indices) == 1 else f"from frame {lost[0]}: {len(lost)} not inspected"
            )
            shapes.append(_rect(x, 0, 100, "failed" if has_failed else "dropped", title))
    return _svg(received, "Frames that were not inspected", shapes)


def latency_chart(records: Sequence[FlightRecord], median_ms: float, highest_ms: float) -> str:
    """A column a report, stacked from its steps; the dashed line is the median."""
    scale = 100 / max(highest_ms, 1e-9)
    shapes = []
    for x, indices in _columns(len(records)):
        slowest = max((records[index] for index in indices), key=lambda record: record.report.timings.total_ms)
        timings, foot = slowest.report.timings, 0.0
        title = f"frame {slowest.index}: {timings.total_ms:.0f} ms"
        for step in STEPS:
            height = step_ms(timings, step) * scale
            shapes.append(_rect(x, foot, height, step, title))
            foot += height
    y = 100 - median_ms * scale
    shapes.append(f'<line x1="0" x2="{_column_count(len(records))}" y1="{y:.2f}" y2="{y:.2f}"/>')
    return _svg(len(records), "Milliseconds of each report, stacked by step", shapes)


def _columns(count: int) -> Iterator[tuple[int, range]]:
    """Column numbers, and the frames that each column stands for."""
    per_column = max(-(-count // _MOST_COLUMNS), 1)
    for x, first in enumerate(range(0, count, per_column)):
        yield x, range(first, min(first + per_column, count))


def _column_count(count: int) -> int:
    return sum(1 for _ in _columns(count))


def _rect(x: int, foot: float, height: float, kind: str, title: str) -> str:
    return (
        f'<rect class="{kind}" x="{x + 0.08:.2f}" width="0.84" y="{100 - foot - height:.2f}" height="{height:.2f}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _svg(count: int, label: str, shapes: Sequence[str]) -> str:
    box = f"0 0 {max(_column_count(count), 1)} 100"
    drawn = "".join(shapes)
    role = "group" if "<a " in drawn else "img"  # what is an image has nothing in it that could be reached
    return f'<svg viewBox="{box}" preserveAspectRatio="none" role="{role}" aria-label="{label}">{drawn}</svg>'
