"""Whatever the schema and whatever the model says, the answer is valid under it, wherever it is cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.language.generate import Answer, write_answer
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.tokenizer import load_tokenizer
from edge_runtime.reports.report import (
    WHOLE,
    Finding,
    answer_from_findings,
    answer_schema,
    items_of_answer,
)
from edge_runtime.reports.schema import BOXES, MOST_BOXES, ReportSchema, load_schema, schema_from_document

VOCAB_SIZE = 512
WORDS = (
    *("crack", "burn mark", "Riß", "größe", "écaillage", "ひび割れ", "裂缝", "трещина", "تصدّع", "दरार", "no", "null"),
    *("1e3", "50%", "a/b", "x_y", "d'eau", "+2", "O.K.", "class 1", "findings", "region 2"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return load_tokenizer(tiny_bundle / "tokenizer.json")


def grammar_of(tokenizer: Tokenizer, schema: ReportSchema, steps: int = 100) -> Grammar:
    return Grammar(tokenizer, VOCAB_SIZE, [2], answer_schema(schema, steps))


def drawn_schema(draw: np.random.Generator) -> ReportSchema:
    """Any that is allowed: names of any script, fields of any type and bounds, any number of boxes."""

    def names(most: int) -> list[str]:
        return [str(name) for name in draw.choice(WORDS, int(draw.integers(1, most + 1)), replace=False)]

    def field() -> dict[str, object]:
        kind = str(draw.choice(["enumeration", "integer", "number", "text"]))
        if kind == "enumeration":
            return {"type": kind, "values": names(5)}
        if kind == "text":
            return {"type": kind, "max_chars": int(draw.integers(1, 40))}
        decimals = int(draw.integers(0, 4)) if kind == "number" else 0
        bounds = sorted({round(float(bound), decimals) for bound in draw.normal(0, 10.0 ** draw.integers(0, 6), 2)})
        minimum, maximum = (bounds[0], bounds[-1]) if len(bounds) > 1 else (bounds[0], bounds[0] + 1)
        said = {"type": kind, "minimum": minimum, "maximum": maximum, "unit": "mm"}
        return {**said, "decimals": decimals} if kind == "number" else said

    return schema_from_document(
        {
            "name": "drawn",
            "subject": "it",
            "classes": names(8),
            "severities": names(5),
            "actions": names(4) if draw.random() < 0.7 else [],
            "fields": {f"field {name}": field() for name in names(3)} if draw.random() < 0.7 else {},
            "boxes": str(draw.choice(BOXES)),
            "max_findings": int(draw.integers(1, 5)),
            "max_description_chars": int(draw.integers(0, 60)),
            "language": str(draw.choice(["", "English", "日本語"])),
        }
    )


def random_answer(grammar: Grammar, draw: np.random.Generator, max_tokens: int) -> Answer:
    spread = draw.choice([0.0, 1.0, 30.0])

    def logits(tokens: Sequence[int]) -> np.ndarray:
        return (draw.standard_normal(VOCAB_SIZE) * spread).astype(np.float32)

    opening = grammar.restart()
    return write_answer(grammar, opening, logits(opening), logits, max_tokens)


def check_text(text: str, most: int, schema: ReportSchema) -> None:
    assert len(text) <= most
    assert text.isascii() or schema.language
    assert not set(text) & set('"\\<>&')
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text)


def check_valid(findings: Sequence[Finding], schema: ReportSchema) -> None:
    assert len(findings) <= schema.max_findings
    for finding in findings:
        assert finding.defect_class in schema.class_names
        assert finding.severity in schema.severity_names
        assert finding.action in (schema.actions or ("",))
        assert 0 < finding.confidence <= 1
        check_text(finding.description, schema.max_description_chars, schema)
        assert len(finding.boxes) in (range(1, MOST_BOXES + 1) if schema.boxes == "several" else [0])
        assert schema.boxes != "none" or finding.region == WHOLE
        for box in (finding.region, *finding.boxes):
            assert 0 <= box.x_min <= box.x_max <= 1
            assert 0 <= box.y_min <= box.y_max <= 1
        assert list(finding.fields) == [each.name for each in schema.fields]
        for each in schema.fields:
            value = finding.fields[each.name]
            if each.type == "enumeration":
                assert value in each.values
            elif each.type == "text":
                check_text(str(value), each.max_chars, schema)
            else:
                assert isinstance(value, int if each.decimals == 0 else (int, float))
                assert each.minimum <= float(value) <= each.maximum
                assert round(float(value), each.decimals) == value


def check_schemas(tokenizer: Tokenizer, schemas: int, answers: int) -> None:
    found = 0
    for seed in range(schemas):
        draw = np.random.default_rng(seed)
        schema, steps = drawn_schema(draw), int(draw.choice([100, 1000]))
        grammar = grammar_of(tokenizer, schema, steps)
        for _ in range(answers):
            max_tokens = int(draw.integers(0, 700))
            answer = random_answer(grammar, draw, max_tokens)
            assert len(answer.texts) <= max_tokens
            findings = answer.findings(schema, steps)
            check_valid(findings, schema)
            written = answer.written
            assert len(findings) == len(list(items_of_answer(written)))
            assert not answer.finished or written.endswith("]}")
            found += len(findings)
    assert found > schemas  # a test of nothing but cut answers would show nothing


def test_any_schema_gives_valid_answers_from_any_logits_at_any_limit(tokenizer: Tokenizer) -> None:
    check_schemas(tokenizer, schemas=12, answers=6)


@pytest.mark.slow
def test_many_schemas_give_valid_answers_from_any_logits_at_any_limit(tokenizer: Tokenizer) -> None:
    check_schemas(tokenizer, schemas=200, answers=20)


@pytest.mark.parametrize("name", ["wind-turbine-blade", "solar-panel", "pipeline"])
def test_an_answer_cut_at_every_byte_has_the_findings_that_are_whole(name: str, tokenizer: Tokenizer) -> None:
    schema = load_schema(name)
    grammar, seeds = grammar_of(tokenizer, schema), map(np.random.default_rng, range(20))
    answer = next(found for seed in seeds if len((found := random_answer(grammar, seed, 3000)).findings(schema)) > 1)
    written = b"".join(answer.texts)
    ends = [len(answer.written[: item.end].encode()) for item in items_of_answer(answer.written)]
    for cut in range(len(written) + 1):
        piece = Answer((written[:cut],), (1.0,), False)
        assert len(piece.findings(schema)) == sum(end <= cut for end in ends)


def test_an_answer_is_read_back_as_it_was_written(tokenizer: Tokenizer) -> None:
    schema = load_schema("pipeline")
    grammar = grammar_of(tokenizer, schema)
    answer = random_answer(grammar, np.random.default_rng(3), 5000)
    assert answer.finished
    again = answer_from_findings(answer.findings(schema), schema)
    grammar.allowed_along(tokenizer.encode(again, add_special_tokens=False).ids)
