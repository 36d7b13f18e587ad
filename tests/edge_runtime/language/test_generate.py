"""Whatever the model says, the answer is valid; what it was sure of is what the report says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BackendError, BundleCorruptError
from edge_runtime.language.generate import Answer, write_answer
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.tokenizer import load_tokenizer
from edge_runtime.reports.report import (
    ACTIONS,
    DEFECT_CLASSES,
    SEVERITIES,
    Finding,
    Region,
    answer_from_findings,
    answer_schema,
)
from edge_runtime.reports.schema import BRIDGE

VOCAB_SIZE = 512  # a third of it padding, as real vocabularies have
FINDINGS = (
    Finding("exposed_rebar", "severe", Region(0.1, 0.2, 0.33, 1.0), 1.0, "two bars, 30 cm", "repair now"),
    Finding("crack", "minor", Region(0.0, 0.0, 0.07, 0.5), 1.0, "", "monitor"),
    Finding("crack", "critical", Region(0.5, 0.5, 0.6, 0.6), 1.0, "wide", "schedule repair"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return load_tokenizer(tiny_bundle / "tokenizer.json")


@pytest.fixture(scope="module")
def grammar(tiny_bundle: Path, tokenizer: Tokenizer) -> Grammar:
    eos = load_bundle(tiny_bundle).manifest.model.eos_token_ids
    return Grammar(tokenizer, VOCAB_SIZE, eos, answer_schema())


class RandomModel:
    """Says something else every time."""

    def __init__(self, seed: int, spread: float) -> None:
        self._random = np.random.default_rng(seed)
        self._spread = spread

    def __call__(self, tokens: Sequence[int]) -> np.ndarray:
        return (self._random.standard_normal(VOCAB_SIZE) * self._spread).astype(np.float32)


class RecitingModel:
    """Knows its answer by heart; gives the next token ``certainty`` over all others together where it has a choice."""

    def __init__(self, grammar: Grammar, ids: Sequence[int], certainty: float) -> None:
        self._grammar = grammar
        self._ids = ids
        self._certainty = certainty
        self._position = 0
        self.asked = 0

    def __call__(self, tokens: Sequence[int]) -> np.ndarray:
        self.asked += 1
        self._position += len(tokens)
        others = len(self._grammar.allowed) - 1
        logits = np.full(VOCAB_SIZE, np.log((1 - self._certainty) / others), np.float32)
        logits[self._ids[self._position]] = np.log(self._certainty)
        return logits


def answer_of(grammar: Grammar, model: RandomModel | RecitingModel, max_tokens: int) -> Answer:
    opening = grammar.restart()
    return write_answer(grammar, opening, model(opening), model, max_tokens)


def recite(grammar: Grammar, tokenizer: Tokenizer, text: str, certainty: float = 0.9, max_tokens: int = 2000) -> Answer:
    return answer_of(
        grammar, RecitingModel(grammar, tokenizer.encode(text, add_special_tokens=False).ids, certainty), max_tokens
    )


def check_valid(findings: Sequence[Finding]) -> None:
    assert len(findings) <= BRIDGE.max_findings
    for finding in findings:
        assert finding.defect_class in DEFECT_CLASSES
        assert finding.severity in SEVERITIES
        assert finding.action in ACTIONS
        assert re.fullmatch(rf"[A-Za-z0-9 ,.%-]{{0,{BRIDGE.max_description_chars}}}", finding.description)
        box = finding.region
        assert 0 <= box.x_min <= box.x_max <= 1
        assert 0 <= box.y_min <= box.y_max <= 1
        assert 0 < finding.confidence <= 1


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e30]), max_tokens=st.integers(0, 900))
def test_every_answer_is_valid_from_any_logits_at_any_limit(
    grammar: Grammar, seed: int, spread: float, max_tokens: int
) -> None:
    answer = answer_of(grammar, RandomModel(seed, spread), max_tokens)
    assert len(answer.texts) <= max_tokens
    check_valid(answer.findings())
    if answer.finished:
        assert len(json.loads(b"".join(answer.texts))["findings"]) == len(answer.findings())


def test_a_limit_cuts_the_answer_after_its_last_complete_finding(grammar: Grammar, tokenizer: Tokenizer) -> None:
    text = answer_from_findings(FINDINGS)
    whole = recite(grammar, tokenizer, text)
    assert whole.finished
    for limit in range(len(whole.texts) + 1):
        cut = recite(grammar, tokenizer, text, max_tokens=limit)
        written = b"".join(cut.texts).decode()
        assert cut.finished == (limit == len(whole.texts))
        assert cut.findings() == whole.findings()[: written.count('"}')]


def test_an_answer_is_read_back_as_it_was_written(grammar: Grammar, tokenizer: Tokenizer) -> None:
    findings = recite(grammar, tokenizer, answer_from_findings(FINDINGS)).findings()
    assert answer_from_findings(findings) == answer_from_findings(FINDINGS)


def test_no_defect_is_an_answer(grammar: Grammar, tokenizer: Tokenizer) -> None:
    answer = recite(grammar, tokenizer, '{"findings":[]}')
    assert answer.finished
    assert answer.findings() == ()


def test_confidence_is_the_product_of_the_choices_that_opened_and_named_the_finding(
    grammar: Grammar, tokenizer: Tokenizer
) -> None:
    answer = recite(grammar, tokenizer, answer_from_findings(FINDINGS), certainty=0.8)
    # In bytes these are three choices each: to open; c, e or s; and then cr or co, ex or ef. The rest is forced.
    assert [f.confidence for f in answer.findings()] == pytest.approx([0.8**3, 0.8**3, 0.8**3], rel=1e-5)


def test_a_certain_model_gives_confidence_one_and_a_doubting_one_less(grammar: Grammar, tokenizer: Tokenizer) -> None:
    text = answer_from_findings(FINDINGS[:1])
    assert recite(grammar, tokenizer, text, certainty=1 - 1e-9).findings()[0].confidence == pytest.approx(1.0)
    assert recite(grammar, tokenizer, text, certainty=0.6).findings()[0].confidence < 0.5


def test_the_model_is_asked_for_less_than_half_of_the_tokens(grammar: Grammar, tokenizer: Tokenizer) -> None:
    model = RecitingModel(grammar, tokenizer.encode(answer_from_findings(FINDINGS), add_special_tokens=False).ids, 0.9)
    answer = answer_of(grammar, model, 2000)
    assert model.asked == sum(probability < 1 for probability in answer.probabilities)
    assert model.asked < len(answer.texts) / 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error_of_the_engine(grammar: Grammar, bad: float) -> None:
    logits = np.full(VOCAB_SIZE, bad, np.float32)
    with pytest.raises(BackendError, match="edge-engines verify"):
        write_answer(grammar, grammar.restart(), logits, lambda tokens: logits, 100)


def test_a_grammar_forgets_the_answer_before(grammar: Grammar) -> None:
    first = answer_of(grammar, RandomModel(5, 1.0), 40)
    answer_of(grammar, RandomModel(6, 1.0), 17)
    assert answer_of(grammar, RandomModel(5, 1.0), 40) == first


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(BundleCorruptError, match="tokenizer"):
        Grammar(tokenizer, 100, [2], answer_schema())


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleCorruptError, match="no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("seed", range(5))
def test_the_choices_along_an_answer_are_those_that_writing_it_had(grammar: Grammar, seed: int) -> None:
    draw = np.random.default_rng(seed)
    tokens, had = list(grammar.restart()), {}
    while not grammar.finished and len(tokens) < 60:
        had[len(tokens)] = grammar.allowed
        token = int(draw.choice(grammar.allowed))
        tokens += [token, *grammar.accept(token)]

    choices = grammar.allowed_along(tokens)

    assert len(choices) == len(tokens)
    for position, allowed in enumerate(choices):
        assert allowed.tolist() == (had[position].tolist() if position in had else [])


def test_what_is_no_answer_has_no_choices(grammar: Grammar, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="number 1 of 2, cannot stand there"):
        grammar.allowed_along([tokenizer.token_to_id("a"), 0])
