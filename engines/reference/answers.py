"""Beginnings of answers for calibration: what a decoder reads while it writes; knows no image.

A decoder that was only shown prompts would be clipped at the words it writes itself. Which image an answer follows
matters little for ranges, so that they are made up: at random, but of plain numbers, so that every machine makes up the
same and takes ranges that another found.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from edge_runtime.reports.report import ACTIONS, DEFECT_CLASSES, SEVERITIES, Finding, Region, answer_from_findings
from engines.reference.renderer.surfaces import SURFACES
from engines.reference.renderer.truth import describe

_ANSWERS = 64
ANSWER_TOKENS = 48  # about one finding; equally many for all, as TensorRT calibrates at one shape
_OFFSETS = 16  # answers begin up to so many tokens late: the last layer sees but the last row, and that is to vary

_FACTS = {
    "width": ("hairline", "fine", "wide"),
    "direction": ("vertical", "horizontal", "diagonal"),
    "bars": ("one bar", "several bars"),
}


def answer_tokens(
    tokenizer: Tokenizer, answers: int = _ANSWERS, tokens: int = ANSWER_TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Runs of ``tokens`` ids from near the beginning of as many answers; shorter ones where answers are short."""
    ids = [tokenizer.encode(_answer(random.Random(seed)), add_special_tokens=False).ids for seed in range(answers)]
    tokens = max(min(tokens, *(len(answer) - _OFFSETS for answer in ids)), 0)
    return tuple(tuple(answer[i % _OFFSETS :][:tokens]) for i, answer in enumerate(ids))


def _answer(draw: random.Random) -> str:
    """What a model may say of a frame with two or three defects."""
    surface = draw.choice(SURFACES)
    classes = draw.sample(DEFECT_CLASSES, draw.choice((2, 3)))
    return answer_from_findings([_finding(draw, name, surface) for name in sorted(classes, key=DEFECT_CLASSES.index)])


def _finding(draw: random.Random, defect_class: str, surface: str) -> Finding:
    severity = draw.choice(SEVERITIES)
    facts = {name: draw.choice(words) for name, words in _FACTS.items()}
    left, top = draw.randrange(70), draw.randrange(70)
    region = Region(left / 100, top / 100, (left + draw.randrange(3, 31)) / 100, (top + draw.randrange(3, 31)) / 100)
    description = describe(defect_class, severity, facts, surface)
    return Finding(defect_class, severity, region, 1.0, description, ACTIONS[SEVERITIES.index(severity)])
