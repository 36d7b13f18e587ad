"""What reports are worth beside the truth of rendered scenes: counts, shares and their table.

Knows nothing of how the model was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from edge_runtime import InspectionReport, Inspector
from edge_runtime.reports.report import DEFECT_CLASSES, SEVERITIES, Finding
from edge_runtime.reports.schema import BRIDGE
from engines.reference.renderer.scenes import AS_TRAINED, BACKDROP, FIRST_HELD_OUT_SEED, HARD, Scene, render_scene


@dataclass(frozen=True)
class Scores:
    """What was measured; every share is 0 to 1."""

    scenes: int
    macro_f1: float  # over the defect classes, presence in the frame
    f1: dict[str, float]
    precision: dict[str, float]
    recall: dict[str, float]
    hairline_recall: float  # frames with a hairline crack in which a crack is reported
    corrosion_missed: float  # frames with corrosion in which none is reported
    false_alarms_distractors: float  # frames with distractors and no defect that get a finding
    false_alarms_clean: float  # frames with neither
    severity_within_one: float  # of true findings whose class is reported
    severity_exact: float
    region_iou_03: float  # true findings with a reported region of IoU 0.3 or more; unreported ones count as missed
    truncated: float
    median_ms: float  # frame to report


@dataclass
class ScoreCounts:
    """Counts while scenes pass; ``scores`` closes the sum."""

    true_positive: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEFECT_CLASSES, 0))
    false_positive: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEFECT_CLASSES, 0))
    false_negative: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DEFECT_CLASSES, 0))
    hairline: list[bool] = field(default_factory=list)
    distractors_only: list[bool] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    severity_error: list[int] = field(default_factory=list)
    overlaps: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, scene: Scene, report: InspectionReport) -> None:
        """Compare one report with what the scene shows."""
        true = {finding.defect_class: finding for finding in scene.findings}
        reported = _by_class(report.findings)
        for name in DEFECT_CLASSES:
            if name in true and name in reported:
                self.true_positive[name] += 1
            elif name in true:
                self.false_negative[name] += 1
            elif name in reported:
                self.false_positive[name] += 1
        for name, finding in true.items():
            guesses = reported.get(name, ())
            self.overlaps.append(any(finding.region.iou(guess.region) >= 0.3 for guess in guesses))
            if guesses:
                best = max(guesses, key=lambda guess: finding.region.iou(guess.region))
                self.severity_error.append(abs(SEVERITIES.index(best.severity) - SEVERITIES.index(finding.severity)))
        if "crack" in true and scene.facts["crack"]["width"] == "hairline":
            self.hairline.append("crack" in reported)
        if not true:
            group = self.distractors_only if scene.distractors or scene.surface == BACKDROP else self.clean
            group.append(bool(reported))
        self.truncated.append(report.truncated)
        self.latencies_ms.append(report.timings.total_ms)

    def scores(self) -> Scores:
        """The shares over all scenes so far."""
        precision, recall, f1 = {}, {}, {}
        for name in DEFECT_CLASSES:
            hits, wrong, missed = self.true_positive[name], self.false_positive[name], self.false_negative[name]
            precision[name] = _ratio(hits, hits + wrong)
            recall[name] = _ratio(hits, hits + missed)
            f1[name] = _ratio(2 * hits, 2 * hits + wrong + missed)
        return Scores(
            scenes=len(self.latencies_ms),
            macro_f1=_mean(f1.values()),
            f1=f1,
            precision=precision,
            recall=recall,
            hairline_recall=_mean(self.hairline),
            corrosion_missed=1 - recall["corrosion"],
            false_alarms_distractors=_mean(self.distractors_only),
            false_alarms_clean=_mean(self.clean),
            severity_within_one=_mean(error <= 1 for error in self.severity_error),
            severity_exact=_mean(error == 0 for error in self.severity_error),
            region_iou_03=_mean(self.overlaps),
            truncated=_mean(self.truncated),
            median_ms=median(self.latencies_ms),
        )


def _by_class(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.defect_class, []).append(finding)
    return groups


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return _ratio(sum(collected), len(collected))


def evaluate(
    bundles: Sequence[str], scenes: int, progress: Callable[[range], Iterable[int]], hard: bool = False
) -> dict[str, Scores]:
    """Scores by bundle path, all on the same ``scenes`` held-out scenes; ``hard`` shows fainter and smaller defects."""
    conditions = HARD if hard else AS_TRAINED
    with ExitStack() as stack:
        inspectors = {bundle: stack.enter_context(Inspector.open(bundle, schema=BRIDGE)) for bundle in bundles}
        counts_by_bundle = {bundle: ScoreCounts() for bundle in bundles}
        for index in progress(range(scenes)):
            scene = render_scene(FIRST_HELD_OUT_SEED + index, conditions=conditions)
            for bundle, inspector in inspectors.items():
                counts_by_bundle[bundle].add(scene, inspector.inspect(scene.image))
        return {bundle: counts.scores() for bundle, counts in counts_by_bundle.items()}


def table(results: dict[str, Scores]) -> str:
    """The scores as a Markdown table, a bundle a column."""
    rows: list[tuple[str, Callable[[Scores], float]]] = [("macro-F1", lambda s: s.macro_f1)]
    rows += [(f"F1 {name}", lambda s, name=name: s.f1[name]) for name in DEFECT_CLASSES]  # type: ignore[misc]
    rows += [
        ("hairline crack recall", lambda s: s.hairline_recall),
        ("corrosion not reported", lambda s: s.corrosion_missed),
        ("false alarms, distractors only", lambda s: s.false_alarms_distractors),
        ("false alarms, nothing at all", lambda s: s.false_alarms_clean),
        ("severity within one level", lambda s: s.severity_within_one),
        ("severity exact", lambda s: s.severity_exact),
        ("region IoU at least 0.3", lambda s: s.region_iou_03),
    ]
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    lines += [f"| {label} | " + " | ".join(f"{read(s):.3f}" for s in results.values()) + " |" for label, read in rows]
    lines.append("| median ms | " + " | ".join(f"{s.median_ms:.0f}" for s in results.values()) + " |")
    return "\n".join(lines)
