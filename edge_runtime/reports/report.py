"""What an inspection report is: its fields, its JSON and words, and the schema a model's answer is held to.

Knows nothing of models, images or ROS. Two JSON forms exist. The *answer* is what the language
model writes, short because every token costs time; its schema constrains decoding. The *report* is
what people and programs read; it adds confidences, timings and the truncation mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from edge_runtime.reports.schema import BRIDGE, MOST_BOXES, ReportField, ReportSchema

# Of the schema that the reference inspector was trained on; what reads reports of any schema asks their own.
DEFECT_CLASSES, SEVERITIES, ACTIONS = BRIDGE.class_names, BRIDGE.severity_names, BRIDGE.actions

REGION_STEPS = 100  # an answer gives coordinates in hundredths of the picture

_OPENING = '{"findings":['
_FIRST_KEY = '{"class":'
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Region:
    """An axis-aligned box in fractions of the frame's width and height, 0 at the top left."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def iou(self, other: Region) -> float:
        """Intersection over union with ``other``, 0.0 where either box has no area."""
        width = min(self.x_max, other.x_max) - max(self.x_min, other.x_min)
        height = min(self.y_max, other.y_max) - max(self.y_min, other.y_min)
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / (self.area + other.area - shared)

    @property
    def area(self) -> float:
        """Share of the frame that the box covers, 0 to 1."""
        return max(self.x_max - self.x_min, 0.0) * max(self.y_max - self.y_min, 0.0)


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Finding:
    """One defect: what it is, how bad, where, how sure the model is, and what to do about it, in the schema's words.

    ``region`` holds all of its boxes; it is what the model saw of the frame where the schema asks for no box.
    ``confidence`` is the product of the probabilities, among the answers the schema allows, with
    which the model opened this finding and named its class. ``track_id`` is the same in every report about the same
    defect (see :mod:`edge_runtime.reports.tracking`), and None where findings are not tracked.
    """

    defect_class: str
    severity: str
    region: Region
    confidence: float  # 0 to 1
    description: str
    action: str  # empty where the schema has none
    track_id: int | None = None  # from 1
    boxes: tuple[Region, ...] = ()  # of a schema that asks for several
    fields: Mapping[str, str | int | float] = field(default_factory=dict, hash=False)  # what else the schema asks for


@dataclass(frozen=True)
class Timings:
    """Milliseconds that each step of one report took."""

    preprocess_ms: float = 0.0
    vision_ms: float = 0.0  # vision encoder and connector
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class InspectionReport:
    """The findings of one frame; ``truncated`` where a limit of tokens or of time cut the model's answer short."""

    findings: tuple[Finding, ...] = ()
    truncated: bool = False
    tokens: int = 0  # tokens of the answer, forced ones included
    timings: Timings = field(default_factory=Timings)
    seen: tuple[Region, ...] = (WHOLE,)  # parts of the frame that the model looked at; nothing is known of the rest
    image_tokens: int = 0  # that the frame took in the prompt
    grid: tuple[int, int] | None = None  # rows and columns of tiles, or of the tokens of a picture of its own shape
    schema: ReportSchema = BRIDGE  # whose words the findings are in

    @property
    def unseen_share(self) -> float:
        """Share of the frame's area that the model did not look at, 0 to 1."""
        xs = sorted({0.0, 1.0, *(x for part in self.seen for x in (part.x_min, part.x_max))})
        ys = sorted({0.0, 1.0, *(y for part in self.seen for y in (part.y_min, part.y_max))})
        return sum(
            (right - left) * (bottom - top)
            for left, right in pairwise(xs)
            for top, bottom in pairwise(ys)
            if not any(
                part.x_min <= left and right <= part.x_max and part.y_min <= top and bottom <= part.y_max
                for part in self.seen
            )
        )


def answer_schema(schema: ReportSchema = BRIDGE, coordinate_steps: int = REGION_STEPS) -> dict[str, Any]:
    """JSON schema of a model's answer, in the order in which the model writes it.

    Corners of regions are whole numbers from 0 to ``coordinate_steps``, the picture's width or height.
    """
    coordinate = {"type": "integer", "minimum": 0, "maximum": coordinate_steps}
    box = {"type": "array", "items": coordinate, "minItems": 4, "maxItems": 4}
    boxes = {"type": "array", "items": box, "minItems": 1, "maxItems": MOST_BOXES}
    # ASCII where no language is named; else letters, marks, digits, signs and joiners of any script, but for what JSON
    # escapes, so that what is written is what is meant.
    characters = r"[[\p{L}\p{M}\p{N}\p{P}\p{S}\u200c\u200d ]--[\"\\<>&]]" if schema.language else "[A-Za-z0-9 ,.%-]"
    properties = {
        "class": {"enum": list(schema.class_names)},
        "severity": {"enum": list(schema.severity_names)},
        **{"one": {"region": box}, "several": {"regions": boxes}, "none": {}}[schema.boxes],
        **{each.name: _field_schema(each, characters) for each in schema.fields},
        "description": {"type": "string", "pattern": f"^{characters}{{0,{schema.max_description_chars}}}$"},
        **({"action": {"enum": list(schema.actions)}} if schema.actions else {}),
    }
    finding = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"findings": {"type": "array", "items": finding, "maxItems": schema.max_findings}},
        "required": ["findings"],
        "additionalProperties": False,
    }


def _field_schema(each: ReportField, characters: str) -> dict[str, Any]:
    if each.type == "enumeration":
        return {"enum": list(each.values)}
    if each.type == "text":
        return {"type": "string", "pattern": f"^{characters}{{0,{each.max_chars}}}$"}
    bounds = {"minimum": each.minimum, "maximum": each.maximum}
    if each.type == "integer" or each.decimals == 0:
        return {"type": "integer", **bounds}
    return {"type": "number", **bounds, "multipleOf": 10**-each.decimals}  # or there might be digits without end


def answer_from_findings(
    findings: Sequence[Finding], schema: ReportSchema = BRIDGE, coordinate_steps: int = REGION_STEPS
) -> str:
    """The compact JSON answer that a perfect model would write for ``findings``."""

    def corners(region: Region) -> list[int]:
        return [round(corner * coordinate_steps) for corner in astuple(region)]

    items = [
        {
            "class": f.defect_class,
            "severity": f.severity,
            **({"region": corners(f.region)} if schema.boxes == "one" else {}),
            **({"regions": [corners(box) for box in f.boxes or (f.region,)]} if schema.boxes == "several" else {}),
            **{each.name: f.fields[each.name] for each in schema.fields},
            "description": f.description,
            **({"action": f.action} if schema.actions else {}),
        }
        for f in findings
    ]
    return json.dumps({"findings": items}, separators=(",", ":"), ensure_ascii=False)


def widest_finding(schema: ReportSchema) -> Finding:
    """A finding of the schema's longest words, and of no description: what has to fit into an answer at least."""

    def longest(names: Sequence[str]) -> str:
        return max(names, key=lambda name: len(name.encode()), default="")

    values: dict[str, str | int | float] = {}
    for each in schema.fields:
        number = each.minimum if each.minimum < 0 else each.maximum
        words = longest(each.values) if each.type == "enumeration" else ""
        values[each.name] = number if each.type in ("integer", "number") else words
    return Finding(
        defect_class=longest(schema.class_names),
        severity=longest(schema.severity_names),
        region=Region(0.0, 0.0, 1.0, 1.0),
        confidence=1.0,
        description="",
        action=longest(schema.actions),
        fields=values,
    )


class AnswerItem(NamedTuple):
    """A complete finding in an answer, and where it stands: characters from the answer's beginning."""

    values: Mapping[str, Any]  # by the answer's keys
    start: int  # of what opens it, the comma behind the finding before it included
    named: int  # where the name of its class ends
    end: int


def items_of_answer(written: str, start: int = len(_OPENING)) -> Iterator[AnswerItem]:
    """The complete findings of an answer, or of the beginning of one; from the ``end`` of one on, those that follow.

    Raises:
        ValueError: it does not begin as an answer does.
    """
    if not (written.startswith(_OPENING) or _OPENING.startswith(written)):
        raise ValueError(f"not an answer: {written[:80]!r}")
    while start < len(written) and written[start] != "]":
        opening = start + (written[start] == ",")
        try:
            values, end = _DECODER.raw_decode(written, opening)
            _, named = _DECODER.raw_decode(written, opening + len(_FIRST_KEY))
        except ValueError:
            return  # cut before it was complete
        yield AnswerItem(values, start, named - 1, end)
        start = end


def findings_from_answer(
    answer: str, confidences: Sequence[float], schema: ReportSchema = BRIDGE, coordinate_steps: int = REGION_STEPS
) -> tuple[Finding, ...]:
    """The complete findings of an answer; ``confidences`` has one value a finding, in order.

    Regions are of the picture.

    Corners given in the wrong order are swapped, so that a region is never inside out.

    Raises:
        ValueError: it is none that satisfies :func:`answer_schema`, or the counts differ.
    """
    items = items_of_answer(answer)
    try:
        return tuple(
            _finding_from_item(item.values, confidence, schema, coordinate_steps)
            for item, confidence in zip(items, confidences, strict=True)
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an answer to {schema.name}: {error!r}") from error


def _finding_from_item(
    item: Mapping[str, Any], confidence: float, schema: ReportSchema, coordinate_steps: int
) -> Finding:
    written = [item["region"]] if schema.boxes == "one" else item["regions"] if schema.boxes == "several" else []
    boxes = tuple(_region_from_corners([value / coordinate_steps for value in corners]) for corners in written)
    return Finding(
        defect_class=item["class"],
        severity=item["severity"],
        region=holding(boxes) if boxes else WHOLE,
        confidence=confidence,
        description=item["description"],
        action=item["action"] if schema.actions else "",
        boxes=boxes if schema.boxes == "several" else (),
        fields={each.name: item[each.name] for each in schema.fields},
    )


def _region_from_corners(corners: Sequence[float]) -> Region:
    x0, y0, x1, y1 = corners
    return Region(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def holding(regions: Sequence[Region]) -> Region:
    """The least region that holds all of at least one."""
    return Region(
        min(region.x_min for region in regions),
        min(region.y_min for region in regions),
        max(region.x_max for region in regions),
        max(region.y_max for region in regions),
    )


def text_from_report(report: InspectionReport) -> str:
    """The report for a terminal: a line that sums it up, then an indented line a finding."""
    count = len(report.findings)
    findings = "no findings" if count == 0 else "1 finding" if count == 1 else f"{count} findings"
    cut = ", cut at its limit" if report.truncated else ""
    if report.unseen_share > 0.005:
        cut += f", {report.unseen_share:.0%} of the frame not looked at"
    lines = [_line_from_finding(finding, report.schema) for finding in report.findings]
    return "\n".join([f"{findings}{cut}, {report.timings.total_ms:.0f} ms", *lines])


def _line_from_finding(finding: Finding, schema: ReportSchema) -> str:
    box = finding.region
    where = "" if schema.boxes == "none" else f"  x {box.x_min:.2f}-{box.x_max:.2f} y {box.y_min:.2f}-{box.y_max:.2f}"
    what = f"{finding.defect_class:14} {finding.severity:9} {finding.confidence:4.0%}{where}"
    fields = text_from_fields(finding, schema)
    action = f"; {finding.action}" if schema.actions else ""
    return f"  {what}  {finding.description}{action}{fields and f' ({fields})'}"


def text_from_fields(finding: Finding, schema: ReportSchema) -> str:
    """What a finding says in the schema's own fields, units included; empty where it has none."""
    units = {each.name: f" {each.unit}" if each.unit else "" for each in schema.fields}
    return ", ".join(f"{name} {value}{units.get(name, '')}" for name, value in finding.fields.items())


def json_from_report(report: InspectionReport) -> dict[str, Any]:
    """The report as plain dicts, lists and numbers; ``defect_class`` is spelled ``class``."""
    document = asdict(report)
    del document["schema"]
    for finding in document["findings"]:
        finding["class"] = finding.pop("defect_class")
        for extra in ("boxes", "fields"):  # of schemas that have some
            if not finding[extra]:
                del finding[extra]
    document["findings"] = list(document["findings"])
    document["seen"] = list(document["seen"])
    document["grid"] = None if report.grid is None else list(report.grid)
    return document


def report_from_json(document: Mapping[str, Any], schema: ReportSchema = BRIDGE) -> InspectionReport:
    """Inverse of :func:`json_from_report`, of a report that was written under ``schema``.

    Raises:
        ValueError: a field is missing or has the wrong form.
    """
    try:
        findings = tuple(
            Finding(
                defect_class=item["class"],
                severity=schema.severity_names[schema.severity_level(item["severity"])],
                region=Region(**item["region"]),
                confidence=float(item["confidence"]),
                description=item["description"],
                action=item["action"],
                track_id=item.get("track_id"),
                boxes=tuple(Region(**box) for box in item.get("boxes", ())),
                fields=dict(item.get("fields", {})),
            )
            for item in document["findings"]
        )
        return InspectionReport(
            findings=findings,
            truncated=bool(document["truncated"]),
            tokens=int(document["tokens"]),
            timings=Timings(**document["timings"]),
            seen=tuple(Region(**part) for part in document.get("seen", [asdict(WHOLE)])),
            image_tokens=int(document.get("image_tokens", 0)),
            grid=None if document.get("grid") is None else (int(document["grid"][0]), int(document["grid"][1])),
            schema=schema,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an inspection report: {error!r}") from error
