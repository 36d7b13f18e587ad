"""Questions about a scene: what a model is led along, and what its logits answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engines.reference
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.tokenizer import load_tokenizer
from edge_runtime.reports.report import DEFECT_CLASSES, Finding, Region, answer_from_findings, answer_schema
from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.questions import answer_loss, are_unforced, teacher_forcing_of, yes_probabilities
from engines.evaluation.sensitivity.scoring import held_to

TOKENIZER = load_tokenizer(Path(engines.reference.__file__).parent / "checkpoint" / "tokenizer.json")
VOCABULARY = TOKENIZER.get_vocab_size()


def finding(name):
    return Finding(name, "minor", Region(0.1, 0.2, 0.3, 0.4), 1.0, f"small {name.replace('_', ' ')}", "monitor")


def trace(forced, sure=30.0):
    """Of a model that is sure of the true answer."""
    logits = np.zeros((len(forced.tokens), VOCABULARY), np.float32)
    logits[np.arange(len(forced.answer)), list(forced.answer)] = sure
    return Trace(np.zeros((1, 1)), np.zeros((1, 1)), logits, forced.tokens)


@pytest.mark.parametrize("names", [(), ("crack",), ("corrosion", "exposed_rebar"), ("efflorescence",), DEFECT_CLASSES])
def test_the_true_answer_is_left_open_for_one_more_finding(names):
    forced = teacher_forcing_of([finding(name) for name in names], TOKENIZER)

    answer = answer_from_findings([finding(name) for name in names])
    assert TOKENIZER.decode(list(forced.answer)) == answer
    assert (
        TOKENIZER.decode(list(forced.tokens[:-1])) == answer.removesuffix("]}") + ("," if names else "") + '{"class":"'
    )
    assert [opening.next_class for opening in forced.openings] == [*map(DEFECT_CLASSES.index, names), 5]


@pytest.mark.parametrize("names", [(), ("crack",), ("corrosion", "exposed_rebar"), ("efflorescence",), DEFECT_CLASSES])
def test_a_model_that_is_sure_of_the_truth_answers_every_question(names):
    forced = teacher_forcing_of([finding(name) for name in names], TOKENIZER)

    shares, there = yes_probabilities(trace(forced), forced)

    assert there.tolist() == [name in names for name in DEFECT_CLASSES]
    assert shares == pytest.approx(there.astype(float), abs=1e-6)
    assert answer_loss(trace(forced), forced) == pytest.approx(0, abs=1e-6)


def test_who_does_not_know_gives_every_class_what_is_left_to_it():
    forced = teacher_forcing_of([], TOKENIZER)

    shares, _ = yes_probabilities(trace(forced, sure=0), forced)

    # Half goes on, in five equal parts; who has denied a crack has four parts of nine left.
    assert shares == pytest.approx([1 / 10, 1 / 9, 1 / 8, 1 / 7, 1 / 6])
    assert answer_loss(trace(forced, sure=0), forced) == pytest.approx(np.log(VOCABULARY))


def test_a_class_that_is_confused_with_another_costs_two_answers():
    forced = teacher_forcing_of([finding("corrosion")], TOKENIZER)
    seen = trace(forced)
    opening = forced.openings[0]
    seen.logits[opening.naming, opening.classes[0]] = 60  # a crack, it says

    shares, there = yes_probabilities(seen, forced)

    assert shares[:2] == pytest.approx([1, 0.5])  # and with the crack denied, corrosion is as likely as the end
    assert there[:2].tolist() == [False, True]


@pytest.mark.parametrize("names", [(), ("crack",), ("corrosion", "exposed_rebar"), ("efflorescence",), DEFECT_CLASSES])
def test_held_to_the_grammar_a_model_keeps_its_opinion_of_what_may_stand_there(names):
    forced = teacher_forcing_of([finding(name) for name in names], TOKENIZER)
    grammar = Grammar(TOKENIZER, VOCABULARY, [TOKENIZER.token_to_id("</s>")], answer_schema())
    seen = trace(forced, sure=0)

    held = held_to(grammar, seen)

    assert np.isfinite(held.logits[np.arange(len(forced.tokens)), list(forced.tokens)]).all()
    for opening in forced.openings:
        assert np.isfinite(held.logits[opening.parting, [opening.should_continue, opening.close]]).all()
        assert np.isfinite(held.logits[opening.naming, list(opening.classes)]).all()
    assert 0 < are_unforced(held.logits).sum() < 0.6 * len(forced.tokens)  # names of fields, quotes: no choices
