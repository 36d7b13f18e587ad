"""How well a bundle does on rendered scenes: its reports beside the truth, and its numbers beside float16's.

Reports are what counts, and are coarse: a scene is right or wrong. What the model thinks of the true answer, token by
token, and how far its features and logits moved, show differences long before a report changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime import Inspector
from edge_runtime.bundle import load_bundle
from edge_runtime.preprocessing import pixels_from_frame
from edge_runtime.report import Finding, answer_from_findings
from edge_runtime.tokenization import load_tokenizer, prompt_tokens
from engines.execution import open_bundle_tracer
from engines.fidelity import Trace
from engines.reference.scenes import FIRST_HELD_OUT_SEED, Scene, render_scene
from engines.reference.scores import Tally

Float32 = NDArray[np.float32]

# Far from those that evaluation counts from, so that a plan is not chosen on the scenes it is judged by.
FIRST_SEED = FIRST_HELD_OUT_SEED + 500_000


@dataclass(frozen=True)
class Exam:
    """Scenes that every bundle is put to; the first ``traced`` of them also token by token."""

    scenes: int
    traced: int

    def rendered(self) -> list[Scene]:
        """The scenes."""
        return [render_scene(FIRST_SEED + index) for index in range(self.scenes)]


@dataclass(frozen=True)
class Result:
    """What came of it; shares are 0 to 1."""

    macro_f1: float
    hairline_recall: float
    corrosion_missed: float
    hallucinated: float  # scenes without a defect that get a finding
    severity_exact: float
    caption_overlap: float  # F1 of the words in descriptions of true findings, 0 for those that are missed
    answer_loss: float  # nats a token that the true answer costs the model
    features_error: float  # distance of the features to float16's, over their length, mean of the rows
    logits_divergence: float  # nats a token: Kullback-Leibler divergence from float16's choice of the next token


def examine(bundle_path: Path, exam: Exam, scenes: Sequence[Scene], reference: Sequence[Trace]) -> Result:
    """Put the bundle to the exam; ``reference`` are :func:`traces` of the float16 bundle.

    Raises:
        BackendError: an engine does not load or run.
    """
    tally, overlaps = Tally(), []
    with Inspector.open(bundle_path, threads=1) as inspector:
        for scene in scenes:
            report = inspector.inspect(scene.image)
            tally.add(scene, report)
            overlaps += [_overlap(finding, report.findings) for finding in scene.findings]
    scores = tally.scores()
    found = traces(bundle_path, scenes[: exam.traced])
    without_defect = [*tally.distractors_only, *tally.clean]
    return Result(
        macro_f1=scores.macro_f1,
        hairline_recall=scores.hairline_recall,
        corrosion_missed=scores.corrosion_missed,
        hallucinated=_mean(without_defect),
        severity_exact=scores.severity_exact,
        caption_overlap=_mean(overlaps),
        answer_loss=_mean(_losses(trace) for trace in found),
        features_error=_mean(_distance(*pair) for pair in zip(found, reference, strict=True)),
        logits_divergence=_mean(divergence(*pair) for pair in zip(found, reference, strict=True)),
    )


def traces(bundle_path: Path, scenes: Sequence[Scene]) -> list[Trace]:
    """What the bundle makes of scenes, led along their true answers."""
    bundle = load_bundle(bundle_path, verify_hashes=False)
    manifest, model = bundle.manifest, bundle.manifest.model
    tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, manifest.prompt, model.image_token_id)
    with open_bundle_tracer(bundle, prompt) as trace:
        return [
            trace(
                pixels_from_frame(scene.image, manifest.preprocessing),
                [
                    *tokenizer.encode(answer_from_findings(scene.findings), add_special_tokens=False).ids,
                    model.eos_token_ids[0],
                ],
            )
            for scene in scenes
        ]


def _losses(trace: Trace) -> float:
    chosen = _log_softmax(trace.logits)[np.arange(len(trace.tokens)), list(trace.tokens)]
    return -float(chosen.mean())


def divergence(found: Trace, reference: Trace) -> float:
    """Nats a token by which the choice of the next one moved (Kullback-Leibler), led along the same tokens."""
    ours, theirs = _log_softmax(found.logits), _log_softmax(reference.logits)
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())


def _distance(found: Trace, reference: Trace) -> float:
    moved = np.linalg.norm(found.features - reference.features, axis=1)
    return float((moved / np.linalg.norm(reference.features, axis=1)).mean())


def _log_softmax(logits: Float32) -> Float32:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)


def _overlap(truth: Finding, findings: Iterable[Finding]) -> float:
    words = set(truth.description.lower().split())
    same_class = [set(f.description.lower().split()) for f in findings if f.defect_class == truth.defect_class]
    return max((2 * len(words & other) / max(len(words) + len(other), 1) for other in same_class), default=0.0)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return float(np.mean(collected)) if collected else 0.0
