"""What was found, as HTML for a flight's page: a card a frame with its picture and boxes; counts, tables, nothing else.

Every text that comes out of a log is escaped here. Boxes are laid over the pictures by the style sheet, in per cent,
so that they stay sharp at any size.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from edge_runtime.flight.log import FlightRecord
from edge_runtime.flight.page.charts import level_of, summary_of
from edge_runtime.flight.page.defects import defects_of
from edge_runtime.reports.annotate import THUMBNAIL_WIDTH, thumbnail_jpeg
from edge_runtime.reports.report import Finding, Region, text_from_fields
from edge_runtime.reports.schema import ReportSchema

_PICTURES_LIMIT_BYTES = 12_000_000  # a page that a phone still opens; base64 makes a third more of it
_CLEAN_PICTURES = 6
_TABLE_ROWS = 500
_NUMBERS = "Numbers on a picture are those of the list under it."
_BADGE_PERCENT = 8  # a box nearer to the picture's top has its number inside


@dataclass(frozen=True)
class Picture:
    """A JPEG to embed, and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def choose_pictures(records: Sequence[FlightRecord]) -> dict[int, Picture]:
    """Pictures to embed, by frame index: of frames with findings the gravest first, then of a few without."""
    found = [record for record in records if record.report.findings]
    found.sort(key=level_of, reverse=True)
    clean = [record for record in records if not record.report.findings]
    every = max(-(-len(clean) // _CLEAN_PICTURES), 1)
    pictures: dict[int, Picture] = {}
    left_bytes = _PICTURES_LIMIT_BYTES
    for record in (*found, *clean[::every]):
        picture = _load_picture(record.image)
        if picture is not None and len(picture.jpeg) <= left_bytes:
            pictures[record.index] = picture
            left_bytes -= len(picture.jpeg)
    return pictures


def matrix_section(records: Sequence[FlightRecord], schema: ReportSchema) -> str:
    """How many defects of each class and severity."""
    counts = Counter((defect.surest[1].defect_class, defect.severity) for defect in defects_of(records))
    if not counts:
        return ""
    rows = []
    for name in schema.class_names:
        cells = (
            f'<td class="some level-{level}">{counts[name, severity]}</td>' if counts[name, severity] else "<td>0</td>"
            for level, severity in enumerate(schema.severity_names)
        )
        rows.append(f'<tr><th scope="row">{words(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{escape(severity)}</th>' for severity in schema.severity_names)
    return f"""<section><h2>What was found</h2><div class="panel"><table class="matrix">
<caption>Findings by defect and severity. One that was followed from frame to frame counts once.</caption>
<thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>"""


def findings_section(records: Sequence[FlightRecord], pictures: Mapping[int, Picture], schema: ReportSchema) -> str:
    """Frames with findings, grouped by the worst of each; those without a picture in a table."""
    found = [record for record in records if record.report.findings]
    if not found:
        return ""
    groups: list[str] = []
    for level, severity in reversed(list(enumerate(schema.severity_names))):
        cards = [_card(r, pictures[r.index]) for r in found if r.index in pictures and level_of(r) == level]
        if cards:
            is_open = 2 * level >= len(schema.severities) or not groups
            groups.append(f"""<details class="group"{" open" if is_open else ""}>
<summary><span class="chip level-{level}">{escape(severity)}</span>
<span class="soft">worst finding of <span data-count>{len(cards)}</span> of the frames</span></summary>
<div class="cards">{"".join(cards)}</div></details>""")
    classes = {finding.defect_class for record in found for finding in record.report.findings}
    choices = "".join(
        f'<button aria-pressed="false" value="{number}">{words(name)}</button>'
        for number, name in enumerate(schema.class_names)
        if name in classes
    )
    numbers = "" if all(record.is_annotated for record in found) else _NUMBERS
    return f"""<section><h2>Findings</h2>
<p class="soft">The worst first. {numbers} A picture opens large.</p>
<div class="filter" role="group" aria-label="Show frames with" hidden>
<button aria-pressed="true" value="">all</button>{choices}</div>
{"".join(groups)}{_table([record for record in found if record.index not in pictures])}</section>"""


def clean_section(records: Sequence[FlightRecord], pictures: Mapping[int, Picture]) -> str:
    """A few of the frames in which nothing was found, to judge the silence by."""
    cards = [_card(r, pictures[r.index]) for r in records if not r.report.findings and r.index in pictures]
    if not cards:
        return ""
    total = sum(1 for record in records if not record.report.findings)
    return f"""<section><h2>Frames without findings</h2>
<p class="soft">{len(cards)} of {total}, taken at even distances, to judge the silence by.</p>
<div class="cards small">{"".join(cards)}</div></section>"""


def words(name: str) -> str:
    """A defect class as a person writes it, escaped."""
    return escape(name.replace("_", " "))


def _load_picture(image: bytes | None) -> Picture | None:
    """None where there is no image or its bytes are none; a picture wider than a thumbnail is made one."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) if image else None
    if image is None or pixels is None:
        return None
    height, width = pixels.shape[:2]
    if width > THUMBNAIL_WIDTH or not image.startswith(b"\xff\xd8"):
        return _load_picture(thumbnail_jpeg(np.asarray(pixels, np.uint8)))
    return Picture(image, width, height)


def _card(record: FlightRecord, picture: Picture) -> str:
    findings = record.report.findings
    schema = record.report.schema
    present = {finding.defect_class for finding in findings}
    classes = " ".join(str(number) for number, name in enumerate(schema.class_names) if name in present)
    drawn = () if record.is_annotated else findings  # those in the picture need no boxes over them
    boxes = "".join(_boxes(number, finding, schema) for number, finding in enumerate(drawn, start=1))
    items = "".join(_item(number, finding, schema) for number, finding in enumerate(findings, start=1))
    place = f"<span>{escape(record.place)}</span>" if record.place else ""
    cut = "<p>The answer was cut at its limit; there may be more.</p>" if record.report.truncated else ""
    return f"""<figure class="card" id="frame-{record.index}" data-classes="{classes}">
<button class="shot" aria-label="Open frame {record.index} large">
<img alt="Frame {record.index}: {escape(summary_of(record))}" width="{picture.width}" height="{picture.height}"
 src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode("ascii")}">{boxes}</button>
<figcaption><span>Frame {record.index}{record.when and f", {record.when}"}</span>
<span>{escape(record.source)}</span>{place}{cut}</figcaption><ol>{items}</ol></figure>"""


def _boxes(number: int, finding: Finding, schema: ReportSchema) -> str:
    regions = () if schema.boxes == "none" else finding.boxes or (finding.region,)
    return "".join(_box(number, finding, region, schema.severity_level(finding.severity)) for region in regions)


def _box(number: int, finding: Finding, region: Region, level: int) -> str:
    left, right = (min(max(x * 100, 0.0), 100.0) for x in (region.x_min, region.x_max))
    top, bottom = (min(max(y * 100, 0.0), 100.0) for y in (region.y_min, region.y_max))
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    title = f"{words(finding.defect_class)}, {escape(finding.severity)}, confidence {finding.confidence:.0%}"
    badge = f'<span class="number{" inside" if top < _BADGE_PERCENT else ""}">{number}</span>'
    return f'<span class="box level-{level}" style="{place}" title="{title}">{badge}</span>'


def _item(number: int, finding: Finding, schema: ReportSchema) -> str:
    level = schema.severity_level(finding.severity)
    said = escape(text_from_fields(finding, schema))
    fields = f'<p class="soft">{said}</p>' if said else ""
    action = f'<p class="action">&#8594; {escape(finding.action)}</p>' if finding.action else ""
    track = "" if finding.track_id is None else f'<span class="soft">no. {finding.track_id}</span>'
    severity = f'<span class="chip level-{level}">{escape(finding.severity)}</span>'
    return f"""<li><span class="number level-{level}">{number}</span><div>
<div class="what"><b>{words(finding.defect_class)}</b> {severity}
{track}<span class="sure">confidence {finding.confidence:.0%}</span></div>
<p>{escape(finding.description)}</p>{fields}{action}</div></li>"""


def _table(records: Sequence[FlightRecord]) -> str:
    """Findings whose frame is not shown, the gravest first."""
    found = [
        (record, finding, record.report.schema.severity_level(finding.severity))
        for record in records
        for finding in record.report.findings
    ]
    if not found:
        return ""
    found.sort(key=lambda each: each[2], reverse=True)
    rows = "".join(
        f'<tr><td>{record.index}</td><td class="left">{words(finding.defect_class)}</td>'
        f'<td class="left"><span class="chip level-{level}">{escape(finding.severity)}</span></td>'
        f'<td>{finding.confidence:.0%}</td><td class="left">{escape(finding.description)}</td></tr>'
        for record, finding, level in found[:_TABLE_ROWS]
    )
    more = f"<p class=soft>The log has {len(found) - _TABLE_ROWS} more.</p>" if len(found) > _TABLE_ROWS else ""
    return f"""<details><summary>{len(found)} findings in frames that are not pictured here</summary>
<div class="panel scroll"><table><thead><tr><th scope="col">frame</th><th scope="col" class="left">defect</th>
<th scope="col" class="left">severity</th><th scope="col">confidence</th><th scope="col" class="left">description</th>
</tr></thead><tbody>{rows}</tbody></table></div>{more}</details>"""
