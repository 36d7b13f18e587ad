"""A bundle put to scenes: its reports beside the truth, and its numbers beside float16's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_runtime import Inspector
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import open_with_schema
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from edge_runtime.reports.report import answer_schema
from edge_runtime.reports.schema import BRIDGE
from edge_runtime.vision.image_processors import pixels_from_frame
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.outcomes import Reported, Traced, reported, traced
from engines.evaluation.sensitivity.questions import TeacherForcing, teacher_forcing_of
from engines.reference.rendered import FIRST_HELD_OUT_SEED, HARD, Scene, render_scene

# Far from those that evaluation counts from, so that a plan is not chosen on the scenes it is judged by.
FIRST_SEED = FIRST_HELD_OUT_SEED + 500_000


def hard_scenes(count: int, first_seed: int = FIRST_SEED) -> list[Scene]:
    """Scenes in which float16 is often in doubt, so that bits decide."""
    return [render_scene(first_seed + index, conditions=HARD) for index in range(count)]


def examine(
    bundle_path: Path, scenes: Sequence[Scene], reference: Sequence[Trace]
) -> tuple[list[Reported], list[Traced]]:
    """Inspect the scenes; the first ones, as many as there are :func:`traces` of float16, also token by token.

    Raises:
        BackendError: an engine does not load or run.
    """
    with Inspector.open(bundle_path, threads=1, schema=BRIDGE) as inspector:  # what rendered scenes show
        reports = [reported(scene, inspector.inspect(scene.image)) for scene in scenes]
    led, forced_answers = (
        traces(bundle_path, scenes[: len(reference)]),
        teacher_forcings_of(bundle_path, scenes[: len(reference)]),
    )
    return reports, [traced(*each) for each in zip(led, reference, forced_answers, strict=True)]


def traces(bundle_path: Path, scenes: Sequence[Scene]) -> list[Trace]:
    """What the bundle makes of scenes, led along the forced_answers of their true answers, and held to the grammar."""
    bundle, _ = open_with_schema(load_bundle(bundle_path, verify_hashes=False), BRIDGE)
    manifest, model = bundle.manifest, bundle.manifest.model
    tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, manifest.prompt, model.image_token_id)
    grammar = Grammar(tokenizer, model.vocab_size, model.eos_token_ids, answer_schema(BRIDGE))
    with open_bundle_tracer(bundle, prompt) as trace:
        return [
            held_to(grammar, trace(pixels_from_frame(scene.image, manifest.image), forced.tokens))
            for scene, forced in zip(scenes, teacher_forcings_of(bundle_path, scenes), strict=True)
        ]


def held_to(grammar: Grammar, trace: Trace) -> Trace:
    """The trace with logits of minus infinity for what may not stand there, of which no model is ever asked."""
    logits = np.full_like(trace.logits, -np.inf)
    for row, opinion, token, allowed in zip(
        logits, trace.logits, trace.tokens, grammar.allowed_along(trace.tokens), strict=True
    ):
        kept = allowed if allowed.size else [token]
        row[kept] = opinion[kept]
    return replace(trace, logits=logits)


def teacher_forcings_of(bundle_path: Path, scenes: Sequence[Scene]) -> list[TeacherForcing]:
    """What the bundle's tokenizer makes of the scenes' true answers."""
    bundle = load_bundle(bundle_path, verify_hashes=False)
    tokenizer = load_tokenizer(bundle.file(bundle.manifest.tokenizer))
    return [teacher_forcing_of(scene.findings, tokenizer) for scene in scenes]
