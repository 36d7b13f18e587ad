"""What scenes add up to: reports beside the truth, and what is made of many."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.reports.report import Finding, InspectionReport, Region
from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.outcomes import (
    Reported,
    Traced,
    class_counts,
    divergence,
    macro_f1,
    reported,
    result_of,
)
from engines.reference.renderer.scenes import Scene

CRACK, CORROSION, SPALLING = 1, 2, 4
TRACED = [Traced(0.2, 0.1, 1, 0.0, 0.5), Traced(0.4, 0.3, 0, 0.2, 0.1)]


def finding(name, severity="minor", description="a small thing"):
    return Finding(name, severity, Region(0.1, 0.2, 0.3, 0.4), 1.0, description, "monitor")


def scene(*findings, width="hairline"):
    image, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint16)
    return Scene(image, labels, findings, {"crack": {"width": width}}, "concrete", ())


def seen(true, found, hairline=False):
    return Reported(true, found, hairline, severities_right=0, overlap=0.0)


def test_a_report_is_compared_with_what_the_scene_shows():
    truth = scene(finding("crack"), finding("corrosion", "severe", "large area of corrosion on steel"))
    report = InspectionReport((finding("spalling"), finding("corrosion", "severe", "large patch of corrosion")))

    found = reported(truth, report)

    assert found == Reported(CRACK | CORROSION, CORROSION | SPALLING, True, 1, pytest.approx(2 * 3 / (6 + 4)))


def test_without_its_crack_a_scene_has_no_hairline():
    assert not reported(scene(finding("corrosion")), InspectionReport()).hairline
    assert not reported(scene(finding("crack"), width="wide"), InspectionReport()).hairline


def test_shares_are_those_of_the_scenes_they_are_about():
    reports = [seen(CRACK, CRACK, hairline=True), seen(CRACK, 0, hairline=True), seen(CORROSION, 0), seen(0, SPALLING)]

    result = result_of([*reports, seen(0, 0)], TRACED)

    assert result.hairline_recall == 0.5
    assert result.corrosion_missed == 1
    assert result.hallucinated == 0.5
    assert result.macro_f1 == pytest.approx((2 / 3) / 5)
    assert result.questions_wrong == pytest.approx(1 / 10)
    assert result.logits_divergence == pytest.approx(0.3)


def trace(*logits):
    nothing = np.zeros((1, 1), np.float32)
    return Trace(nothing, nothing, np.array(logits, np.float32), tuple(range(len(logits))))


def test_a_model_that_agrees_with_itself_does_not_diverge():
    assert divergence(trace([1, 2, -np.inf]), trace([1, 2, -np.inf])) == 0


def test_divergence_is_the_mean_of_the_choices_and_forced_tokens_are_none():
    even, sure, forced = [0, 0, -np.inf], [np.log(9), 0, -np.inf], [-np.inf, -np.inf, 5]

    moved = divergence(trace(sure, even, forced), trace(even, even, forced))

    assert moved == pytest.approx((np.log(0.5 / 0.9) + np.log(0.5 / 0.1)) / 2 / 2)


def test_what_no_scene_is_about_is_nothing():
    result = result_of([seen(0, 0)], [])

    assert result.corrosion_missed == result.hairline_recall == result.answer_loss == 0


def test_f1_of_many_samples_at_once_is_that_of_each():
    reports = [seen(CRACK, CRACK), seen(CRACK | CORROSION, CORROSION), seen(0, SPALLING)]
    counts = class_counts(reports)

    together = macro_f1(*np.stack([counts[:2].sum(axis=0), counts.sum(axis=0)], axis=1))

    alone = [macro_f1(*counts[:2].sum(axis=0)), macro_f1(*counts.sum(axis=0))]
    assert np.array_equal(together, alone)
