"""What an inspection report is: its fields, its JSON and words, and the schema a model's answer is held to.

Knows nothing of models, images or ROS. Two JSON forms exist. The *answer* is what the language
model writes, short because every token costs time; its schema constrains decoding. The *report* is
what people and programs read; it adds confidences, timings and the truncation mark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import pairwise
from typing import Any

DEFECT_CLASSES = ("crack", "corrosion", "spalling", "exposed_rebar", "efflorescence")
SEVERITIES = ("minor", "moderate", "severe", "critical")
ACTIONS = ("monitor", "inspect closely", "schedule repair", "repair now")
MAX_FINDINGS = 8
MAX_DESCRIPTION_CHARS = 120

REGION_STEPS = 100  # an answer gives coordinates in hundredths of the picture


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
    """One defect: what it is, how bad, where, how sure the model is, and what to do about it.

    ``confidence`` is the product of the probabilities, among the answers the schema allows, with
    which the model opened this finding and named its class. ``track_id`` is the same in every report about the same
    defect (see :mod:`edge_runtime.reports.tracking`), and None where findings are not tracked.
    """

    defect_class: str  # one of DEFECT_CLASSES
    severity: str  # one of SEVERITIES
    region: Region
    confidence: float  # 0 to 1
    description: str
    action: str  # one of ACTIONS
    track_id: int | None = None  # from 1


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
    grid: tuple[int, int] | None = None  # rows and columns of tiles that the frame was cut into for the vision encoder

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


def answer_schema(coordinate_steps: int = REGION_STEPS) -> dict[str, Any]:
    """JSON schema of a model's answer, in the order in which the model writes it.

    Corners of regions are whole numbers from 0 to ``coordinate_steps``, the picture's width or height.
    """
    coordinate = {"type": "integer", "minimum": 0, "maximum": coordinate_steps}
    finding = {
        "type": "object",
        "properties": {
            "class": {"enum": list(DEFECT_CLASSES)},
            "severity": {"enum": list(SEVERITIES)},
            "region": {"type": "array", "items": coordinate, "minItems": 4, "maxItems": 4},
            "description": {"type": "string", "pattern": rf"^[A-Za-z0-9 ,.%-]{{0,{MAX_DESCRIPTION_CHARS}}}$"},
            "action": {"enum": list(ACTIONS)},
        },
        "required": ["class", "severity", "region", "description", "action"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"findings": {"type": "array", "items": finding, "maxItems": MAX_FINDINGS}},
        "required": ["findings"],
        "additionalProperties": False,
    }


def answer_from_findings(findings: Sequence[Finding]) -> str:
    """The compact JSON answer that a perfect model would write for ``findings``."""
    items = [
        {
            "class": f.defect_class,
            "severity": f.severity,
            "region": [round(corner * REGION_STEPS) for corner in astuple(f.region)],
            "description": f.description,
            "action": f.action,
        }
        for f in findings
    ]
    return json.dumps({"findings": items}, separators=(",", ":"))


def findings_from_answer(
    answer: str, confidences: Sequence[float], coordinate_steps: int = REGION_STEPS
) -> tuple[Finding, ...]:
    """Parse a complete answer; ``confidences`` has one value a finding, in order. Regions are of the picture.

    Corners given in the wrong order are swapped, so that a region is never inside out.

    Raises:
        ValueError: the answer does not satisfy :func:`answer_schema`, or the counts differ.
    """
    items = json.loads(answer)["findings"]
    return tuple(
        _finding_from_item(item, confidence, coordinate_steps)
        for item, confidence in zip(items, confidences, strict=True)
    )


def _finding_from_item(item: Mapping[str, Any], confidence: float, coordinate_steps: int) -> Finding:
    x0, y0, x1, y1 = (value / coordinate_steps for value in item["region"])
    return Finding(
        defect_class=item["class"],
        severity=item["severity"],
        region=Region(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)),
        confidence=confidence,
        description=item["description"],
        action=item["action"],
    )


def text_from_report(report: InspectionReport) -> str:
    """The report for a terminal: a line that sums it up, then an indented line a finding."""
    count = len(report.findings)
    findings = "no findings" if count == 0 else "1 finding" if count == 1 else f"{count} findings"
    cut = ", cut at its limit" if report.truncated else ""
    if report.unseen_share > 0.005:
        cut += f", {report.unseen_share:.0%} of the frame not looked at"
    return "\n".join([f"{findings}{cut}, {report.timings.total_ms:.0f} ms", *map(_line_from_finding, report.findings)])


def _line_from_finding(finding: Finding) -> str:
    box = finding.region
    where = f"x {box.x_min:.2f}-{box.x_max:.2f} y {box.y_min:.2f}-{box.y_max:.2f}"
    what = f"{finding.defect_class:14} {finding.severity:9} {finding.confidence:4.0%}  {where}"
    return f"  {what}  {finding.description}; {finding.action}"


def json_from_report(report: InspectionReport) -> dict[str, Any]:
    """The report as plain dicts, lists and numbers; ``defect_class`` is spelled ``class``."""
    document = asdict(report)
    for finding in document["findings"]:
        finding["class"] = finding.pop("defect_class")
    document["findings"] = list(document["findings"])
    document["seen"] = list(document["seen"])
    document["grid"] = None if report.grid is None else list(report.grid)
    return document


def report_from_json(document: Mapping[str, Any]) -> InspectionReport:
    """Inverse of :func:`json_from_report`.

    Raises:
        ValueError: a field is missing or has the wrong form.
    """
    try:
        findings = tuple(
            Finding(
                defect_class=item["class"],
                severity=item["severity"],
                region=Region(**item["region"]),
                confidence=float(item["confidence"]),
                description=item["description"],
                action=item["action"],
                track_id=item.get("track_id"),
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
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an inspection report: {error!r}") from error
