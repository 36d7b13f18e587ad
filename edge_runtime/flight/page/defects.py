"""The defects of a flight: findings that show the same one, put together, and their table; follows nothing itself."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from html import escape

from edge_runtime.flight.log import FlightRecord
from edge_runtime.reports.report import Finding

_TABLE_ROWS = 300


@dataclass(frozen=True)
class Defect:
    """One defect and the reports that saw it, in their order; a finding that was not tracked is one of its own."""

    track_id: int | None
    sightings: tuple[tuple[FlightRecord, Finding], ...]

    @property
    def level(self) -> int:
        """How grave it is at most, 0 for the mildest severity."""
        return _level(self.surest)

    @property
    def severity(self) -> str:
        """The gravest that was reported."""
        return self.surest[1].severity

    @property
    def surest(self) -> tuple[FlightRecord, Finding]:
        """The sighting of the highest confidence among the gravest ones."""
        return max(self.sightings, key=lambda sighting: (_level(sighting), sighting[1].confidence))


def _level(sighting: tuple[FlightRecord, Finding]) -> int:
    record, finding = sighting
    return record.report.schema.severity_level(finding.severity)


def defects_of(records: Sequence[FlightRecord]) -> tuple[Defect, ...]:
    """Every defect, in the order in which they were first seen."""
    found: dict[object, list[tuple[FlightRecord, Finding]]] = {}
    for record in records:
        for number, finding in enumerate(record.report.findings):
            key = (record.index, number) if finding.track_id is None else finding.track_id
            found.setdefault(key, []).append((record, finding))
    return tuple(Defect(sightings[0][1].track_id, tuple(sightings)) for sightings in found.values())


def defects_section(records: Sequence[FlightRecord], pictured: Container[int]) -> str:
    """A line a defect, the gravest first; nothing where no finding was tracked."""
    defects = [defect for defect in defects_of(records) if defect.track_id is not None]
    if not defects:
        return ""
    defects.sort(key=lambda defect: defect.level, reverse=True)
    has_places = any(record.place for record in records)
    rows = "".join(_row(defect, pictured, has_places) for defect in defects[:_TABLE_ROWS])
    more = f"<p class=soft>The log has {len(defects) - _TABLE_ROWS} more.</p>" if len(defects) > _TABLE_ROWS else ""
    return f"""<section><h2>Defects</h2>
<p class="soft">What was followed from frame to frame, the gravest first.</p>
<div class="panel scroll"><table class="defects"><thead><tr><th scope="col">no.</th>
<th scope="col" class="left">defect</th><th scope="col" class="left">severity</th><th scope="col">seen in</th>
<th scope="col">from</th><th scope="col">to</th><th scope="col">confidence</th><th scope="col">best in</th>
{'<th scope="col" class="left">taken at</th>' if has_places else ""}</tr></thead>
<tbody>{rows}</tbody></table></div>{more}</section>"""


def _row(defect: Defect, pictured: Container[int], has_places: bool) -> str:
    record, finding = defect.surest
    (first, _), (last, _) = defect.sightings[0], defect.sightings[-1]
    count = len(defect.sightings)
    frame = f"frame {record.index}"
    return f"""<tr><td>{defect.track_id}</td><td class="left">{escape(finding.defect_class.replace("_", " "))}</td>
<td class="left"><span class="chip level-{defect.level}">{escape(defect.severity)}</span></td>
<td>{count} {"frame" if count == 1 else "frames"}</td>
<td>{first.when or first.index}</td><td>{last.when or last.index}</td>
<td>{finding.confidence:.0%}</td>
<td>{f'<a href="#frame-{record.index}">{frame}</a>' if record.index in pictured else frame}</td>
{f'<td class="left">{escape(record.place)}</td>' if has_places else ""}</tr>"""
