"""A question about a frame is answered in the form that was asked for, with how sure the model is of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import Choice, Inspector, Json, Text
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import open_with_schema, question_prompt
from edge_runtime.cli import main
from edge_runtime.cli.terminal import printable
from edge_runtime.errors import BackendError
from edge_runtime.language.questions import choice_probabilities, json_from_reply
from tests.edge_runtime.test_inspector import frame, timeless

QUESTION = "Is there a person in the picture?"
BOLTS = {
    "type": "object",
    "properties": {"bolts": {"type": "integer", "minimum": 0, "maximum": 99}, "seen": {"type": "boolean"}},
    "required": ["bolts", "seen"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def inspector(tiny_bundle: Path) -> Iterator[Inspector]:
    with Inspector.open(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> str:
    import cv2

    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), frame())
    return str(path)


def test_the_question_takes_the_place_of_the_instruction(tiny_bundle: Path) -> None:
    bundle, asked = open_with_schema(load_bundle(tiny_bundle), None)
    prompt = question_prompt(bundle.manifest.prompt, asked, "What colour?")
    assert prompt.before_image == "USER: "
    assert prompt.after_image == "\nWhat colour?\nASSISTANT:"


def test_a_text_is_as_likely_as_its_tokens_and_is_cut_at_its_limit(inspector: Inspector) -> None:
    reply = inspector.ask(frame(), QUESTION, Text(max_tokens=20))
    assert reply.truncated
    assert reply.tokens == 20
    assert -20 * math.log(512) <= reply.log_probability < 0
    assert json.loads(json.dumps(json_from_reply(reply)))["text"] == reply.text


@pytest.mark.parametrize("limit", range(1, 40))
def test_a_text_cut_anywhere_is_the_beginning_of_the_whole(inspector: Inspector, limit: int) -> None:
    whole = inspector.ask(frame(), QUESTION, Text(max_tokens=40))
    cut = inspector.ask(frame(), QUESTION, Text(max_tokens=limit))
    assert whole.text.startswith(cut.text)
    assert cut.tokens <= limit
    assert cut.log_probability >= whole.log_probability


def test_choices_are_weighed_against_each_other(inspector: Inspector) -> None:
    reply = inspector.ask(frame(), QUESTION, Choice(("yes", "no", "perhaps")))
    assert list(reply.choices) == ["yes", "no", "perhaps"]
    assert sum(reply.choices.values()) == pytest.approx(1)
    assert reply.choices[reply.text] == max(reply.choices.values())
    assert reply.log_probability == pytest.approx(math.log(reply.choices[reply.text]))
    assert not reply.truncated


def test_json_is_held_to_its_schema(inspector: Inspector) -> None:
    reply = inspector.ask(frame(), "How many bolts?", BOLTS)
    assert json.loads(reply.text) == reply.value
    assert set(reply.value) == {"bolts", "seen"}
    assert 0 <= reply.value["bolts"] <= 99


@pytest.mark.parametrize("limit", range(1, 30))
def test_json_that_was_cut_has_no_value(inspector: Inspector, limit: int) -> None:
    reply = inspector.ask(frame(), "How many bolts?", Json(BOLTS, limit))
    assert reply.truncated == (reply.value is None)
    assert reply.tokens <= limit


def test_an_answer_is_the_same_whatever_was_asked_before(tiny_bundle: Path) -> None:
    with Inspector.open(tiny_bundle, threads=1) as fresh:
        first = fresh.ask(frame(), QUESTION, Choice(("yes", "no"))).choices
        report = timeless(fresh.inspect(frame()))
        fresh.ask(frame(1), "What else?", Text(5))
        fresh.ask(frame(), "How many bolts?", BOLTS)
        assert fresh.ask(frame(), QUESTION, Choice(("yes", "no"))).choices == pytest.approx(first, rel=1e-4)
        assert timeless(fresh.inspect(frame())) == report


def test_a_second_question_about_a_frame_costs_its_own_tokens_only(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector.ask(frame(7), QUESTION, Text(2))
    loaded = inspector._loaded
    assert loaded is not None
    rows: list[tuple[int, bool]] = []
    prefill = loaded.decoder.prefill

    def watched(tokens: Sequence[int], image_tokens: int, same_image: bool = False) -> Any:
        rows.append((len(tokens), same_image and loaded.decoder.holds_image))
        return prefill(tokens, image_tokens, same_image)

    monkeypatch.setattr(loaded.decoder, "prefill", watched)
    inspector.ask(frame(7), "And now?", Choice(("yes", "no")))
    inspector.ask(frame(7), "And how many?", BOLTS)
    assert all(kept for _, kept in rows)
    assert max(tokens for tokens, _ in rows) < 120  # of the question, the choices and what opens an answer


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        ("", Text(), "the question is empty"),
        (" \n", Text(), "the question is empty"),
        ("what is <image> here?", Text(), "holds the image token"),
        ("x" * 10_000, Text(), "ask in fewer words"),
        ("x" * 10_000, Choice(("yes", "no")), "ask in fewer words"),
        (QUESTION, Text(0), "max_tokens is 0"),
        (QUESTION, Choice(()), "there are 0 choices"),
        (QUESTION, Choice(("yes",)), "there are 1 choices"),
        (QUESTION, Choice("yes"), "expected 2 to 64"),  # type: ignore[arg-type]
        (QUESTION, Choice(tuple(map(str, range(65)))), "there are 65 choices"),
        (QUESTION, Choice(("yes", " yes")), "empty, or there twice"),
        (QUESTION, Choice(("yes", "")), "empty, or there twice"),
        (QUESTION, Choice(("yes", "</s>")), "nothing that the model's vocabulary can write"),
        (QUESTION, Choice(("yes", "<image>")), "nothing that the model's vocabulary can write"),
        (QUESTION, Choice(("yes", "n" * 5000)), "ask in fewer words"),
        (QUESTION, {"type": "nonsense"}, "Invalid type: nonsense"),
        (QUESTION, {"type": "string", "pattern": "(?=x)"}, "look-around"),
        (QUESTION, {"type": "integer", "minimum": 5, "maximum": 2}, "Unsatisfiable schema"),
        (QUESTION, {"type": {1, 2}}, "not JSON serializable"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_with_the_reason(
    inspector: Inspector, question: str, answer: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        inspector.ask(frame(), question, answer)
    assert inspector.ask(frame(), QUESTION, Text(1)).tokens == 1  # and the next question is answered


class Sayings:
    """A model of which every next token's logits are known: they depend on the tokens so far alone."""

    def __init__(self, vocabulary: int = 12) -> None:
        self.said: list[int] = []
        self._vocabulary = vocabulary

    def logits(self) -> np.ndarray:
        draw = np.random.default_rng([5, *self.said])
        return draw.standard_normal(self._vocabulary).astype(np.float32) * 3

    def append(self, tokens: Sequence[int]) -> np.ndarray:
        self.said += tokens
        return self.logits()

    def rewind(self, count: int) -> None:
        del self.said[len(self.said) - count :]

    def probability(self, tokens: Sequence[int]) -> float:
        model, found = Sayings(self._vocabulary), 1.0
        for token in tokens:
            scores = np.exp(model.logits().astype(np.float64))
            found *= float(scores[token] / scores.sum())
            model.append([token])
        return found


@pytest.mark.parametrize(
    "ways",
    [
        (((3,),), ((4,),)),
        (((3,),), ((3, 4),)),  # one begins the other
        (((3, 4, 5),), ((3, 4),), ((3,),)),
        (((3, 4), (6,)), ((3, 5), (7, 8, 9))),  # each may be written in two ways
    ],
)
def test_a_choice_is_as_probable_as_its_whole_sequence_and_its_end(ways: Sequence[Sequence[Sequence[int]]]) -> None:
    model, end = Sayings(), 2
    found, weighed = choice_probabilities(ways, [end], model.logits(), model.append, model.rewind)
    expected = np.array([sum(model.probability([*way, end]) for way in each) for each in ways])
    assert found == pytest.approx(expected / expected.sum())
    assert model.said == []  # everything was taken back
    assert weighed == len({tuple(way[: n + 1]) for each in ways for way in each for n in range(len(way))})


def test_choices_that_nobody_waits_for_are_not_weighed(inspector: Inspector) -> None:
    reply = inspector.ask(frame(), QUESTION, Choice(("yes", "no")), should_continue=lambda written: False)
    assert (reply.truncated, reply.text, dict(reply.choices)) == (True, "", {})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_of_the_engine(bad: float) -> None:
    model = Sayings()
    with pytest.raises(BackendError, match="edge-engines verify"):
        choice_probabilities((((3,),), ((4,),)), [2], np.full(12, bad, np.float32), model.append, model.rewind)


def test_the_command_prints_choices_with_their_probabilities(
    tiny_bundle: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(tiny_bundle), photo, QUESTION, "--choices", "yes,no"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in lines) == ["no", "yes"]
    assert sum(float(line.split()[0].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.02)


def test_the_command_prints_json_for_scripts(
    tiny_bundle: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bolts.json").write_text(json.dumps(BOLTS))
    assert main(["ask", str(tiny_bundle), photo, "Bolts?", "--schema", str(tmp_path / "bolts.json"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["question"] == "Bolts?"
    assert set(document["answer"]["value"]) == {"bolts", "seen"}


def test_the_command_prints_a_text_and_says_where_it_was_cut(
    tiny_bundle: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(tiny_bundle), photo, QUESTION, "--max-tokens", "5"]) == 0
    said = capsys.readouterr()
    assert said.out
    assert "cut at its limit" in said.err


def test_the_command_refuses_bad_questions_as_usage(
    tiny_bundle: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text("[]")
    for options, says in (
        ([photo, ""], "the question is empty"),
        ([photo, photo, QUESTION], "ask about each alone"),
        ([photo, QUESTION, "--schema", str(tmp_path / "list.json")], "is no JSON schema"),
        ([photo, QUESTION, "--schema", str(tmp_path / "none.json")], "cannot be read"),
    ):
        assert main(["ask", str(tiny_bundle), *options]) == 2
        assert says in capsys.readouterr().err


def test_a_text_appears_on_a_terminal_as_it_is_written(tiny_bundle: Path, photo: str) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "edge_runtime.cli", "ask", str(tiny_bundle), photo, QUESTION, "--max-tokens", "30"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True) as asked:
        _, said = asked.communicate(timeout=60)
    os.close(theirs)
    written = os.read(ours, 4096).decode()
    os.close(ours)
    with Inspector.open(tiny_bundle) as inspector:
        text = inspector.ask(frame(), QUESTION, Text(30)).text
    assert written.replace("\r\n", "\n").rstrip("\n") == printable(text, but="\n")
    assert "cut at its limit" in said
