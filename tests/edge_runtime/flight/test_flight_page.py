"""The page of a flight is whole in one file, says what the log says, and lets nothing out of the log run or load."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import FlightLogError
from edge_runtime.flight.log import Flight, FlightEnd, FlightHeader, FlightLog, FlightRecord, FrameFailure, load_flight
from edge_runtime.flight.page.page import page_from_flight, write_page
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.reports.annotate import thumbnail_jpeg
from edge_runtime.reports.report import DEFECT_CLASSES, SEVERITIES, Finding, InspectionReport, Region, Timings
from edge_runtime.reports.schema import BRIDGE, schema_from_document

VOID = {"meta", "img", "link", "br", "hr", "input"}
ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt; {body} $body"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def walk(self) -> Iterator["Element"]:
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, tag: str, css_class: str = "") -> list["Element"]:
        return [e for e in self.walk() if e.tag == tag and css_class in ("", *e.attributes.get("class", "").split())]

    def words(self) -> str:
        return " ".join(" ".join([self.text, *(child.words() for child in self.children)]).split())


class TreeBuilder(HTMLParser):
    """Fails on any element that is not closed where it was opened."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def parse(page: str) -> Element:
    builder = TreeBuilder()
    builder.feed(page)
    builder.close()
    [document] = builder.open
    return document


def jpeg(width: int = 64, height: int = 48) -> bytes:
    return thumbnail_jpeg(np.full((height, width, 3), 120, np.uint8))


def finding(severity: str = "severe", defect_class: str = "crack", description: str = "crack 3 mm wide") -> Finding:
    return Finding(defect_class, severity, Region(0.25, 0.5, 0.75, 1.0), 0.87, description, "schedule repair")


def record(index: int, *findings: Finding, image: bytes | None = None, total_ms: float = 100.0) -> FlightRecord:
    timings = Timings(5.0, 40.0, 25.0, total_ms - 70.0, total_ms)
    return FlightRecord(index, index / 10, "camera", InspectionReport(findings, False, 40, timings), image)


@pytest.fixture
def flight() -> Flight:
    """Six frames received: two with findings, one without, two dropped, one failed."""
    memory_plan = MemoryPlan(
        (MemoryPlanItem("weights", 4_000_000, 5_000_000), MemoryPlanItem("frames", 1_000_000)), 2_000_000_000
    )
    return Flight(
        header=FlightHeader("reference, asymmetric-int4", "front camera", 1_700_000_000.0),
        records=(
            record(0, finding("minor", "corrosion"), image=jpeg()),
            record(2, finding("critical"), finding("minor", "spalling"), image=jpeg(), total_ms=200.0),
            record(5, image=jpeg()),
        ),
        failures=(FrameFailure(3, 0.3, "camera", "the JPEG is truncated"),),
        end=FlightEnd(received=6, dropped=2, failed=1, memory_plan=memory_plan),
    )


def test_the_headline_names_the_gravest_findings_and_how_much_was_looked_at(flight: Flight) -> None:
    [headline] = parse(page_from_flight(flight)).all("h1")
    assert headline.words() == "1 critical finding and 2 milder in 3 inspected frames"


def test_the_tiles_have_the_numbers_of_the_log(flight: Flight) -> None:
    tiles = [tile.words() for tile in parse(page_from_flight(flight)).all("div", "tile")]
    assert tiles == [
        "frames inspected 3 of 6 received",
        "findings 3 in 2 frames",
        "frame to report, median 100 ms 9 of 10 within 200 ms",
        "memory measured 5.00 MB of 2.00 GB budget",
    ]


def test_frames_with_findings_come_the_gravest_first_then_the_clean_ones(flight: Flight) -> None:
    cards = parse(page_from_flight(flight)).all("figure", "card")
    assert [card.attributes["id"] for card in cards] == ["frame-2", "frame-0", "frame-5"]


def test_a_box_lies_where_the_region_is_and_says_what_it_is(flight: Flight) -> None:
    box = parse(page_from_flight(flight)).all("span", "box")[0]
    assert box.attributes["style"] == "left:25.00%;top:50.00%;width:50.00%;height:50.00%"
    assert box.attributes["title"] == "crack, critical, confidence 87%"
    assert "level-3" in box.attributes["class"]


def test_a_finding_is_listed_with_all_that_the_report_says_of_it(flight: Flight) -> None:
    item = parse(page_from_flight(flight)).all("figure", "card")[0].all("li")[0].words()
    assert item == "1 crack critical confidence 87% crack 3 mm wide → schedule repair"


def test_every_picture_says_in_words_what_it_shows(flight: Flight) -> None:
    texts = [image.attributes["alt"] for image in parse(page_from_flight(flight)).all("img")]
    assert texts == ["Frame 2: crack critical, spalling minor", "Frame 0: corrosion minor", "Frame 5: nothing found"]


def test_the_timeline_has_each_frame_once_and_links_to_its_picture(flight: Flight) -> None:
    timeline, losses, _ = parse(page_from_flight(flight)).all("svg")
    assert [bar.attributes["class"] for bar in timeline.all("rect")] == ["level-0", "level-3", "clean"]
    assert [link.attributes["href"] for link in timeline.all("a")] == ["#frame-0", "#frame-2", "#frame-5"]
    assert [mark.words() for mark in losses.all("rect")] == ["frame 1: dropped", "frame 3: failed", "frame 4: dropped"]


def test_links_of_a_chart_are_named_and_in_no_image(flight: Flight) -> None:
    timeline, losses, _ = parse(page_from_flight(flight)).all("svg")
    assert timeline.attributes["role"] == "group"
    assert losses.attributes["role"] == "img"
    assert timeline.all("a")[1].attributes["aria-label"].startswith("frame 2, ")


def test_the_page_says_what_its_findings_and_their_confidence_are_worth(flight: Flight) -> None:
    [main] = parse(page_from_flight(flight)).all("main")
    assert "is not calibrated" in main.words()
    assert "for an inspector to look at" in main.words()


def test_a_printed_page_keeps_its_colours_is_light_and_has_its_groups_open(flight: Flight) -> None:
    page = page_from_flight(flight)
    printed = page.partition("@media print {")[2].partition("</style>")[0]
    assert "print-color-adjust: exact" in printed
    assert page.count("prefers-color-scheme: dark") == page.count("@media screen and (prefers-color-scheme: dark)") == 1
    assert "beforeprint" in page


def test_the_table_counts_findings_by_defect_and_severity(flight: Flight) -> None:
    [table] = parse(page_from_flight(flight)).all("table", "matrix")
    rows = {
        row.all("th")[0].words(): [cell.words() for cell in row.all("td")] for row in table.all("tbody")[0].all("tr")
    }
    assert list(rows) == [name.replace("_", " ") for name in DEFECT_CLASSES]
    assert rows["crack"] == ["0", "0", "0", "1"]
    assert rows["corrosion"] == ["1", "0", "0", "0"]


def test_latencies_are_listed_by_step(flight: Flight) -> None:
    [table] = parse(page_from_flight(flight)).all("table", "steps")
    rows = {
        row.all("th")[0].words(): [cell.words() for cell in row.all("td")] for row in table.all("tbody")[0].all("tr")
    }
    assert rows["decode"] == ["30.0", "130.0", "130.0", "130.0"]
    assert rows["frame to report"] == ["100.0", "200.0", "200.0", "200.0"]


def test_drops_and_failures_are_said_with_their_reasons(flight: Flight) -> None:
    words = parse(page_from_flight(flight)).words()
    assert "2 of 6 frames (33%) were dropped" in words
    assert "the JPEG is truncated 1 3" in words


def test_the_memory_plan_shows_planned_beside_measured_and_what_was_not_measured(flight: Flight) -> None:
    [table] = parse(page_from_flight(flight)).all("table", "memory-plan")
    rows = [row.words() for row in table.all("tr")[1:]]
    assert rows == [
        "weights 4.00 MB 5.00 MB",
        "frames 1.00 MB –",
        "total 5.00 MB 5.00 MB",
        "budget 2.00 GB",
    ]


@pytest.mark.parametrize("where", ["description", "action", "class", "source", "bundle", "reason", "item"])
def test_hostile_text_is_shown_as_text(flight: Flight, where: str) -> None:
    text = {
        name: ATTACK if name == where else "plain"
        for name in ("description", "action", "source", "bundle", "reason", "item")
    }
    hostile = Finding(
        ATTACK if where == "class" else "crack", "minor", Region(0, 0, 1, 1), 0.5, text["description"], text["action"]
    )
    page = page_from_flight(
        Flight(
            FlightHeader(text["bundle"], text["source"]),
            (FlightRecord(0, 0.0, text["source"], InspectionReport((hostile,)), jpeg()), record(1, hostile)),
            (FrameFailure(2, 0.0, "", text["reason"]),),
            FlightEnd(3, 0, 1, MemoryPlan((MemoryPlanItem(text["item"], 1),))),
        )
    )
    document = parse(page)
    assert len(document.all("script")) == 1
    assert not [name for element in document.walk() for name in element.attributes if name.startswith("on")]
    assert all(image.attributes["src"].startswith("data:") for image in document.all("img"))
    assert ATTACK.replace("_", " ") in document.words() + document.all("title")[0].text


def test_nothing_is_loaded_from_anywhere(flight: Flight) -> None:
    page = page_from_flight(flight)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", page)
    assert not parse(page).all("link")
    [policy] = [m.attributes["content"] for m in parse(page).all("meta") if "http-equiv" in m.attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_a_flight_without_a_frame_has_a_page_that_says_so() -> None:
    document = parse(page_from_flight(Flight(end=FlightEnd(0, 0, 0))))
    assert document.all("h1")[0].words() == "No frame arrived"
    assert not document.all("img")


def test_a_flight_of_failures_only_says_why() -> None:
    failures = tuple(FrameFailure(index, index / 10, "camera", "no image") for index in range(3))
    document = parse(page_from_flight(Flight(failures=failures, end=FlightEnd(3, 0, 3))))
    assert document.all("h1")[0].words() == "No frame could be inspected"
    assert "3 frames failed" in document.words()
    assert "no image 3 0" in document.words()


def test_a_flight_without_findings_says_so(flight: Flight) -> None:
    document = parse(page_from_flight(Flight(records=flight.records[2:], end=flight.end)))
    assert document.all("h1")[0].words() == "Nothing found in 1 inspected frame"


def test_a_flight_cut_short_is_said_to_be_and_its_drops_are_inferred(flight: Flight) -> None:
    document = parse(page_from_flight(Flight(records=flight.records, failures=flight.failures)))
    assert "cut short" in document.all("p", "notice")[0].words()
    assert "2 of 6 frames (33%) were dropped" in document.words()


def test_a_report_cut_at_its_limit_is_marked() -> None:
    report = InspectionReport((finding(),), truncated=True)
    document = parse(page_from_flight(Flight(records=(FlightRecord(0, 0.0, "", report, jpeg()),))))
    assert "cut at its limit" in document.all("figure", "card")[0].words()


def cut(index: int, *findings: Finding, image: bytes | None = None) -> FlightRecord:
    return FlightRecord(index, index / 10, "camera", InspectionReport(findings, truncated=True), image)


@pytest.mark.parametrize(
    ("records", "headline"),
    [
        ((cut(0), cut(1)), "2 answers were cut short before any finding in 2 inspected frames"),
        ((cut(0), record(1)), "Nothing found in 2 inspected frames; 1 answer was cut short before any finding"),
        (
            (cut(0), record(1, finding("minor")), cut(2)),
            "1 minor finding in 3 inspected frames; 2 answers were cut short before any finding",
        ),
        ((cut(0, finding("minor")), record(1)), "1 minor finding in 2 inspected frames"),
    ],
)
def test_the_headline_gives_no_all_clear_for_answers_that_were_cut_short(
    records: tuple[FlightRecord, ...], headline: str
) -> None:
    document = parse(page_from_flight(Flight(records=records)))
    assert document.all("h1")[0].words() == headline


def test_a_frame_whose_answer_was_cut_before_any_finding_is_not_drawn_as_clean() -> None:
    records = (cut(0, image=jpeg()), record(1, image=jpeg()), cut(2, finding("minor")))
    document = parse(page_from_flight(Flight(records=records)))
    bars = document.all("svg")[0].all("rect")
    assert [bar.attributes["class"] for bar in bars] == ["cut", "clean", "level-0"]
    assert bars[0].words() == "frame 0, 0.0 s: cut short before any finding"
    assert document.all("img")[0].attributes["alt"] == "Frame 0: cut short before any finding"
    assert "cut short before any finding" in document.all("ul", "legend")[0].words()


def test_a_column_of_several_frames_shows_the_cut_one_rather_than_the_clean_ones() -> None:
    records = [record(index) for index in range(3000)]
    records[1234] = cut(1234)
    bars = parse(page_from_flight(Flight(records=tuple(records)))).all("svg")[0].all("rect")
    assert [bar.words() for bar in bars if bar.attributes["class"] == "cut"] == [
        "frame 1234, 123.4 s: cut short before any finding"
    ]


def followed(track_id: int, severity: str, confidence: float) -> Finding:
    return replace(finding(severity), track_id=track_id, confidence=confidence)


def test_a_defect_that_was_followed_is_one_line_with_its_sightings() -> None:
    records = (
        record(0, followed(1, "minor", 0.9), image=jpeg()),
        record(3, followed(1, "severe", 0.5), followed(2, "critical", 0.7), image=jpeg()),
        record(7, followed(1, "severe", 0.8)),
    )
    document = parse(page_from_flight(Flight(records=records)))
    assert document.all("h1")[0].words() == "1 critical finding and 1 milder in 3 inspected frames"
    [table] = document.all("table", "defects")
    assert [row.words() for row in table.all("tbody")[0].all("tr")] == [
        "2 crack critical 1 frame 0.3 s 0.3 s 70% frame 3",
        "1 crack severe 3 frames 0.0 s 0.7 s 80% frame 7",
    ]
    assert [link.attributes["href"] for link in table.all("a")] == ["#frame-3"]  # frame 7 has no picture to go to
    [matrix] = document.all("table", "matrix")
    assert [cell.words() for cell in matrix.all("tr")[1].all("td")] == ["0", "0", "1", "1"]
    assert "no. 2" in document.all("figure", "card")[0].words()


def test_findings_that_were_not_followed_have_no_table_of_defects(flight: Flight) -> None:
    assert not parse(page_from_flight(flight)).all("table", "defects")


def test_skipped_frames_are_told_apart_from_dropped_ones(flight: Flight) -> None:
    end = FlightEnd(received=6, dropped=1, failed=1, skipped=1)
    document = parse(page_from_flight(replace(flight, end=end)))
    assert "1 of 6 frames (17%) was dropped" in document.words()
    assert "1 frame showed nothing new and was skipped" in document.words()
    losses = document.all("svg")[1]
    assert losses.all("rect")[0].words() == "frame 1: not inspected"


def test_findings_without_a_picture_are_in_a_table() -> None:
    records = (record(0, finding("minor")), record(1, finding("severe"), image=b"not a picture"))
    document = parse(page_from_flight(Flight(records=records)))
    assert not document.all("img")
    rows = [row.words() for row in document.all("details")[0].all("tbody")[0].all("tr")]
    assert rows == ["1 crack severe 87% crack 3 mm wide", "0 crack minor 87% crack 3 mm wide"]


def test_a_large_picture_is_made_small() -> None:
    large = bytes(cv2.imencode(".png", np.full((960, 1280, 3), 90, np.uint8))[1])
    [image] = parse(page_from_flight(Flight(records=(record(0, finding(), image=large),)))).all("img")
    assert (image.attributes["width"], image.attributes["height"]) == ("640", "480")


def test_a_page_of_two_hundred_frames_stays_small_enough_for_a_phone() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    heavy = thumbnail_jpeg(noise)
    records = tuple(record(index, finding(SEVERITIES[index % 4]), image=heavy) for index in range(200))
    page = page_from_flight(Flight(records=records))
    assert len(heavy) * 200 > 20_000_000
    assert len(page) < 17_000_000
    shown = [card.words() for card in parse(page).all("figure", "card")]
    assert sum("critical" in words for words in shown) == 50  # the gravest are the last to go


def test_a_long_flight_is_drawn_in_few_columns_that_show_the_worst() -> None:
    records = [record(index) for index in range(3000)]
    records[1234] = record(1234, finding("critical"))
    [timeline, *_] = parse(page_from_flight(Flight(records=tuple(records)))).all("svg")
    bars = timeline.all("rect")
    assert len(bars) <= 400
    assert [bar.words() for bar in bars if bar.attributes["class"] == "level-3"] == [
        "frame 1234, 123.4 s: crack critical"
    ]


def test_a_page_is_written_from_a_log(tmp_path: Path) -> None:
    with FlightLog(tmp_path / "log.jsonl", FlightHeader(source="bad\udcffname")) as log:
        log.write_record(record(0, finding(), image=jpeg()))
    write_page(tmp_path / "log.jsonl", tmp_path / "pages" / "flight.html")
    assert parse((tmp_path / "pages" / "flight.html").read_text("utf-8")).all("figure", "card")


def test_a_page_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    FlightLog(tmp_path / "log.jsonl").close()
    with pytest.raises(FlightLogError, match="cannot write page"):
        write_page(tmp_path / "log.jsonl", tmp_path)


def test_what_was_not_looked_at_of_a_frame_is_said(flight: Flight) -> None:
    assert "not looked at" not in page_from_flight(flight)
    first, *others = flight.records
    cropped = replace(first, report=replace(first.report, seen=(Region(0.22, 0.0, 0.78, 1.0),)))
    page = page_from_flight(replace(flight, records=(cropped, *others)))
    assert "Up to 44% of a frame was not looked at" in page


def test_a_flight_without_times_shows_numbers_and_no_seconds(flight: Flight) -> None:
    untimed = replace(flight, records=tuple(replace(record, stamp_s=None) for record in flight.records))
    page = page_from_flight(untimed)
    assert "s of flight" not in page
    assert not re.search(r"[Ff]rame \d+, [\d.]+ s", page)
    assert re.search(r"[Ff]rame \d+, [\d.]+ s", page_from_flight(flight))


def test_the_page_of_a_log_with_several_flights_tells_of_the_others_and_shows_them(tmp_path: Path) -> None:
    log = tmp_path / "flight.jsonl"
    for number, reports in enumerate((3, 1), start=1):
        with FlightLog(log, FlightHeader(source=f"camera {number}")) as opened:
            for index in range(reports):
                opened.write_record(FlightRecord(index, 0.0, "camera", InspectionReport()))
    write_page(log, tmp_path / "last.html")
    assert "holds 2 flights, of which this is no. 2; the others have 3 reports." in (tmp_path / "last.html").read_text()
    write_page(log, tmp_path / "first.html", 1)
    assert "the others have 1 report." in (tmp_path / "first.html").read_text()
    with pytest.raises(FlightLogError, match="none has number 3"):
        write_page(log, tmp_path / "third.html", 3)


def test_a_flight_that_a_crash_cut_can_be_read_although_another_followed(tmp_path: Path) -> None:
    log = tmp_path / "flight.jsonl"
    with FlightLog(log) as opened:
        opened.write_record(FlightRecord(0, 0.0, "camera", InspectionReport()))
        opened.write_record(FlightRecord(1, 0.0, "camera", InspectionReport()))
    log.write_bytes(log.read_bytes()[:-20])
    FlightLog(log).close()
    write_page(log, tmp_path / "first.html", 1)
    assert "1 inspected frame" in (tmp_path / "first.html").read_text()


ROOFS = schema_from_document(
    {
        "name": "roofs",
        "subject": "the roof",
        "classes": ["broken tile", "Moos und Flechten"],
        "severities": {"clean": "as new", "cut": "worn", "dropped": "gone"},  # words that the page has of its own
        "fields": {"share": {"type": "integer", "minimum": 0, "maximum": 100, "unit": "%"}},
        "boxes": "several",
        "language": "English",
    }
)
HALVES = (Region(0.0, 0.0, 0.5, 1.0), Region(0.5, 0.0, 1.0, 1.0))


def test_a_page_is_in_the_words_of_its_flights_schema() -> None:
    tile = Finding("broken tile", "dropped", Region(0, 0, 1, 1), 0.5, "", "", boxes=HALVES, fields={"share": 30})
    moss = Finding("Moos und Flechten", "clean", HALVES[0], 0.5, "grün", "", boxes=HALVES[:1], fields={"share": 5})
    report = InspectionReport((tile, moss), schema=ROOFS)
    page = parse(
        page_from_flight(Flight(FlightHeader(schema=ROOFS), (FlightRecord(0, 0.0, "camera", report, jpeg()),)))
    )
    [table] = page.all("table", "matrix")
    assert [head.words() for head in table.all("thead")[0].all("th")] == ["clean", "cut", "dropped"]
    assert [row.all("th")[0].words() for row in table.all("tbody")[0].all("tr")] == ["broken tile", "Moos und Flechten"]
    assert page.all("h1")[0].words() == "1 dropped finding and 1 milder in 1 inspected frame"
    assert [box.attributes["class"] for box in page.all("span", "box")] == ["box level-2", "box level-2", "box level-0"]
    items = [item.words() for item in page.all("figure", "card")[0].all("li")]
    assert items == [
        "1 broken tile dropped confidence 50% share 30 %",
        "2 Moos und Flechten clean confidence 50% grün share 5 %",
    ]
    [card], choices = page.all("figure", "card"), page.all("div", "filter")[0].all("button")
    assert card.attributes["data-classes"].split() == [choice.attributes["value"] for choice in choices[1:]]


def test_a_schema_without_boxes_draws_none() -> None:
    schema = replace(ROOFS, boxes="none")
    found = Finding("broken tile", "cut", Region(0, 0, 1, 1), 0.5, "", "", fields={"share": 30})
    records = (FlightRecord(0, 0.0, "", InspectionReport((found,), schema=schema), jpeg()),)
    assert not parse(page_from_flight(Flight(FlightHeader(schema=schema), records))).all("span", "box")


def test_a_flight_is_read_back_in_the_words_of_its_schema(tmp_path: Path) -> None:
    found = Finding("broken tile", "cut", HALVES[0], 0.5, "", "", boxes=HALVES, fields={"share": 30})
    kept = FlightRecord(0, 0.0, "", InspectionReport((found,), schema=ROOFS))
    with FlightLog(tmp_path / "flight.jsonl", FlightHeader(schema=ROOFS)) as log:
        log.write_record(kept)
    flight = load_flight(tmp_path / "flight.jsonl")
    assert flight.header.schema == ROOFS
    assert flight.records == (kept,)


def test_a_log_from_before_schemas_is_of_bridges(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text('{"kind":"flight","bundle":"","source":"","started_unix_s":null}\n')
    assert load_flight(tmp_path / "old.jsonl").header.schema == BRIDGE


def test_a_log_with_severities_that_its_schema_does_not_know_is_damaged(tmp_path: Path) -> None:
    with FlightLog(tmp_path / "flight.jsonl", FlightHeader(schema=ROOFS)) as log:
        log.write_record(record(0, finding("severe")))
    with pytest.raises(FlightLogError, match="'severe' is no severity of roofs"):
        load_flight(tmp_path / "flight.jsonl")
