"""Beginnings of answers for calibration: what a decoder reads while it writes; knows no image.

A decoder that was only shown prompts would be clipped at the words it writes itself. Which image an answer follows
matters little for ranges, so that they are made up: at random, but of plain numbers, so that every machine makes up the
same and takes ranges that another found.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from edge_runtime.reports.report import REGION_STEPS, Finding, Region, answer_from_findings
from edge_runtime.reports.schema import BRIDGE, ReportField, ReportSchema
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
    tokenizer: Tokenizer,
    answers: int = _ANSWERS,
    tokens: int = ANSWER_TOKENS,
    schema: ReportSchema = BRIDGE,
    coordinate_steps: int = REGION_STEPS,
) -> tuple[tuple[int, ...], ...]:
    """Runs of ``tokens`` ids from near the beginning of as many answers; shorter ones where answers are short.

    Corners are written in ``coordinate_steps`` of the picture's width and height.
    """
    texts = [_answer(random.Random(seed), schema, coordinate_steps) for seed in range(answers)]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokens = max(min(tokens, *(len(answer) - _OFFSETS for answer in ids)), 0)
    return tuple(tuple(answer[i % _OFFSETS :][:tokens]) for i, answer in enumerate(ids))


def _answer(draw: random.Random, schema: ReportSchema, coordinate_steps: int) -> str:
    """What a model may say of a frame with two or three defects."""
    surface = draw.choice(SURFACES)
    names = schema.class_names
    classes = draw.sample(names, min(draw.choice((2, 3)), len(names), schema.max_findings))
    findings = [_finding(draw, name, surface, schema) for name in sorted(classes, key=names.index)]
    return answer_from_findings(findings, schema, coordinate_steps)


def _finding(draw: random.Random, defect_class: str, surface: str, schema: ReportSchema) -> Finding:
    level = draw.choice(range(len(schema.severities)))
    severity = schema.severity_names[level]
    facts = {name: draw.choice(words) for name, words in _FACTS.items()}
    left, top = draw.randrange(70), draw.randrange(70)
    region = Region(left / 100, top / 100, (left + draw.randrange(3, 31)) / 100, (top + draw.randrange(3, 31)) / 100)
    if schema == BRIDGE:
        description = describe(defect_class, severity, facts, surface)
    else:  # of what it is, in the words that the schema has for it
        description = next(term.definition or term.name for term in schema.classes if term.name == defect_class)
    return Finding(
        defect_class,
        severity,
        region,
        1.0,
        description[: schema.max_description_chars],
        schema.actions[min(level, len(schema.actions) - 1)] if schema.actions else "",
        fields={each.name: _value(draw, each) for each in schema.fields},
    )


def _value(draw: random.Random, field: ReportField) -> str | int | float:
    if field.type == "enumeration":
        return draw.choice(field.values)
    if field.type == "text":
        return ""
    value = round(draw.uniform(field.minimum, field.maximum), field.decimals)
    return int(value) if field.decimals == 0 else value
