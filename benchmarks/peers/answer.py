"""An answer in the steps in which the runtime writes it: a token of the model's own, and what the grammar forces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.language.generate import write_answer
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.tokenizer import load_tokenizer
from edge_runtime.reports.report import answer_from_findings, answer_schema
from edge_runtime.vision.resampling import Float32
from engines import reference
from engines.families.llava import read_config
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene

CHECKPOINT = Path(reference.__file__).with_name("checkpoint")
_FINDINGS = 2


def answer_steps() -> list[int]:
    """Tokens of each step: the true answer about the first held-out scene with two findings, in the reference's tokens.

    The tokenizer of the model that is timed would flatter: a synthetic one spells out every letter that is forced.
    """
    tokenizer = load_tokenizer(CHECKPOINT / "tokenizer.json")
    model = read_config(_read("config"), _read("generation_config"))
    grammar = Grammar(tokenizer, model.llama.vocab_size, model.eos_token_ids, answer_schema())
    scenes = (render_scene(seed) for seed in count(FIRST_HELD_OUT_SEED))
    findings = next(scene.findings for scene in scenes if len(scene.findings) == _FINDINGS)
    ids = tokenizer.encode(answer_from_findings(findings), add_special_tokens=False).ids
    opening, steps = grammar.restart(), list[int]()

    def logits_behind(appended: Sequence[int]) -> Float32:
        steps.append(len(appended))
        return surely(ids[len(opening) + sum(steps)])

    def surely(token: int) -> Float32:
        logits = np.zeros(model.llama.vocab_size, np.float32)
        logits[token] = 1
        return logits

    write_answer(grammar, opening, surely(ids[len(opening)]), logits_behind, len(ids))
    return steps


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((CHECKPOINT / f"{name}.json").read_text())
    return document
