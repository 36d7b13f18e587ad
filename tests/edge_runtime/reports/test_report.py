"""A report reads well in a terminal."""

from __future__ import annotations

from edge_runtime.reports.report import InspectionReport, Timings, text_from_report
from tests.fakes import CRACK


def test_a_report_without_findings_is_one_line():
    assert text_from_report(InspectionReport(timings=Timings(total_ms=87.4))) == "no findings, 87 ms"


def test_every_finding_has_a_line_of_its_own():
    one = text_from_report(InspectionReport(findings=(CRACK,)))
    two = text_from_report(InspectionReport(findings=(CRACK, CRACK)))

    assert one.splitlines()[0].startswith("1 finding, ")
    assert two.splitlines()[0].startswith("2 findings, ")
    assert two.splitlines()[1:] == one.splitlines()[1:] * 2
    for words in ("crack", "moderate", "90%", "x 0.20-0.60 y 0.30-0.70", CRACK.description, CRACK.action):
        assert words in one


def test_a_report_that_was_cut_says_so():
    assert "cut at its limit" in text_from_report(InspectionReport(truncated=True))
