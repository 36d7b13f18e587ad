"""What became of scenes, one by one, and what that adds up to; knows no model.

Reports are what counts, and are coarse: a scene is right or wrong. What the model thinks of the true answer, token by
token, and how far its features and logits moved, show differences long before a report changes. A *choice* is a token
at which the answer's grammar leaves more than one: of the others no logit is ever asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES, Finding, InspectionReport
from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.questions import (
    TeacherForcing,
    answer_loss,
    are_unforced,
    log_softmax,
    yes_probabilities,
)
from engines.reference.rendered import Scene

_CORROSION = 1 << DEFECT_CLASSES.index("corrosion")


@dataclass(frozen=True)
class Reported:
    """One scene beside its report; a bit of ``true`` and ``found`` is a defect class, in the order of the classes."""

    true: int
    found: int
    hairline: bool  # whether it shows a hairline crack
    severities_right: int  # of defects that are there and reported
    overlap: float  # F1 of the words in descriptions, 0 for what is missed; summed over the true findings


@dataclass(frozen=True)
class Traced:
    """One scene, the model led along the true answer."""

    answer_loss: float  # nats an unforced token that the true answer costs
    question_loss: float  # nats a question ("is there corrosion?", ...) that the right answer costs
    questions_wrong: int  # of as many as there are classes
    features_error: float  # distance of the features to float16's, over their length, mean of the rows
    divergence: float  # nats an unforced token: Kullback-Leibler divergence from float16's choice of the next token


@dataclass(frozen=True)
class Result:
    """What scenes add up to; shares are 0 to 1."""

    macro_f1: float
    hairline_recall: float
    corrosion_missed: float
    hallucinated: float  # scenes without a defect that get a finding
    severity_exact: float
    caption_overlap: float  # F1 of the words in descriptions of true findings, 0 for those that are missed
    answer_loss: float
    features_error: float
    logits_divergence: float
    question_loss: float | None = None  # None in journals from before questions were asked
    questions_wrong: float | None = None


def reported(scene: Scene, report: InspectionReport) -> Reported:
    """Compare a report with what the scene shows."""
    findings = {finding.defect_class: finding for finding in reversed(report.findings)}  # a class's first one
    hits = [(true, findings[true.defect_class]) for true in scene.findings if true.defect_class in findings]
    return Reported(
        true=_bits(scene.findings),
        found=_bits(report.findings),
        hairline=any(f.defect_class == "crack" for f in scene.findings) and scene.facts["crack"]["width"] == "hairline",
        severities_right=sum(true.severity == found.severity for true, found in hits),
        overlap=sum(_overlap(true.description, found.description) for true, found in hits),
    )


def traced(trace: Trace, reference: Trace, forced: TeacherForcing) -> Traced:
    """Compare what a model thinks along a forced with what float16 does."""
    shares, there = yes_probabilities(trace, forced)
    right = np.where(there, shares, 1 - shares)
    moved = np.linalg.norm(trace.features - reference.features, axis=1)
    return Traced(
        answer_loss=answer_loss(trace, forced),
        question_loss=-float(np.log(np.maximum(right, 1e-6)).mean()),
        questions_wrong=int((right < 0.5).sum()),
        features_error=float((moved / np.linalg.norm(reference.features, axis=1)).mean()),
        divergence=divergence(trace, reference),
    )


def divergence(found: Trace, reference: Trace) -> float:
    """Nats a choice by which that of the next token moved (Kullback-Leibler), led along the same tokens."""
    ours, theirs = log_softmax(found.logits), log_softmax(reference.logits)
    moved = np.subtract(theirs, ours, out=np.zeros_like(ours), where=np.isfinite(theirs))
    return float((np.exp(theirs) * moved).sum(axis=1)[are_unforced(theirs)].mean())


def result_of(reports: Sequence[Reported], traces: Sequence[Traced]) -> Result:
    """The sums and shares."""
    true, found = (np.array([getattr(seen, side) for seen in reports]) for side in ("true", "found"))
    hairline = np.array([seen.hairline for seen in reports])
    hits = sum(int(both).bit_count() for both in true & found)
    return Result(
        macro_f1=float(macro_f1(*class_counts(reports).sum(axis=0))),
        hairline_recall=_share(found[hairline] & 1),
        corrosion_missed=_share((found & _CORROSION == 0)[true & _CORROSION > 0]),
        hallucinated=_share((found > 0)[true == 0]),
        severity_exact=sum(seen.severities_right for seen in reports) / max(hits, 1),
        caption_overlap=sum(seen.overlap for seen in reports) / max(sum(int(t).bit_count() for t in true), 1),
        answer_loss=_share([trace.answer_loss for trace in traces]),
        question_loss=_share([trace.question_loss for trace in traces]),
        questions_wrong=_share([trace.questions_wrong / len(DEFECT_CLASSES) for trace in traces]),
        features_error=_share([trace.features_error for trace in traces]),
        logits_divergence=_share([trace.divergence for trace in traces]),
    )


def class_counts(reports: Sequence[Reported]) -> NDArray[np.int64]:
    """Hits, and wrong and missed ones together, scene by scene: (scenes, 2, classes)."""
    bits = np.arange(len(DEFECT_CLASSES))
    true, found = (np.array([getattr(s, side) for s in reports])[:, None] >> bits & 1 for side in ("true", "found"))
    return np.stack([true & found, true ^ found], axis=1)


def macro_f1(hits: NDArray[np.int64], wrong: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1, mean of the classes (the last axis); a class that is nowhere counts 0."""
    return np.asarray((2 * hits / np.maximum(2 * hits + wrong, 1)).mean(axis=-1), np.float64)


def _bits(findings: Iterable[Finding]) -> int:
    return sum({1 << DEFECT_CLASSES.index(finding.defect_class) for finding in findings})


def _overlap(one: str, other: str) -> float:
    ours, theirs = set(one.lower().split()), set(other.lower().split())
    return 2 * len(ours & theirs) / max(len(ours) + len(theirs), 1)


def _share(values: Iterable[float] | NDArray[np.generic]) -> float:
    collected = np.asarray(values, np.float64)
    return float(collected.mean()) if collected.size else 0.0
