"""Questions about a frame: what form an answer may have, what comes back, and how likely each of several answers is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_runtime.errors import BackendError
from edge_runtime.reports.report import WHOLE, Region, Timings
from edge_runtime.vision.resampling import Float32

_MOST_CHOICES = 64


@dataclass(frozen=True)
class Text:
    """Any text, until the model ends it, of so many tokens at most."""

    max_tokens: int = 128


@dataclass(frozen=True)
class Choice:
    """One of ``choices``, each weighed by the probability that the model's whole answer is that and nothing else."""

    choices: tuple[str, ...]


@dataclass(frozen=True)
class Json:
    """Compact JSON that ``schema``, a JSON schema, allows, of so many tokens at most."""

    schema: Mapping[str, Any]
    max_tokens: int = 256


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    ``log_probability`` is in nats: of a text or of JSON, of its tokens among those that its form allowed, the end
    included; of a choice, among the choices. It is not calibrated, as confidences of findings are not.
    """

    text: str  # of JSON as it was written; of a choice the likeliest
    log_probability: float
    truncated: bool  # a limit of tokens or of time cut the answer
    value: Any = None  # what JSON says; None where the answer is no JSON, or was cut
    choices: Mapping[str, float] = field(default_factory=dict)  # probabilities, which add up to 1; in the order asked
    tokens: int = 0  # of the answer; of a choice, those that were weighed
    timings: Timings = field(default_factory=Timings)
    seen: tuple[Region, ...] = (WHOLE,)  # parts of the frame that the model looked at
    image_tokens: int = 0  # that the frame took in the prompt


def json_from_reply(reply: Reply) -> dict[str, Any]:
    """The reply as plain dicts, lists and numbers; without ``choices`` where there were none to choose from."""
    document: dict[str, Any] = {"text": reply.text, "log_probability": reply.log_probability}
    if reply.choices:
        document["choices"] = dict(reply.choices)
    if reply.value is not None:
        document["value"] = reply.value
    return {
        **document,
        "truncated": reply.truncated,
        "tokens": reply.tokens,
        "timings": dict(vars(reply.timings)),
        "seen": [dict(vars(part)) for part in reply.seen],
        "image_tokens": reply.image_tokens,
    }


def choice_tokens(tokenizer: Tokenizer, choices: Sequence[str]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each choice the ways in which a model may write it: behind a space, as most do, and without.

    Raises:
        ValueError: there are no two to choose from, or too many; one is empty, there twice, or nothing that the
            vocabulary can write.
    """
    if isinstance(choices, str) or not 2 <= len(choices) <= _MOST_CHOICES:
        raise ValueError(f"there are {len(choices)} choices; expected 2 to {_MOST_CHOICES}")
    named = [choice.strip() for choice in choices]
    if twice := [name for name in named if named.count(name) > 1 or not name]:
        raise ValueError(f"the choice {twice[0]!r} is empty, or there twice; name each once")
    return tuple(_ways_to_write(tokenizer, name) for name in named)


def _ways_to_write(tokenizer: Tokenizer, choice: str) -> tuple[tuple[int, ...], ...]:
    ways = {tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in (choice, f" {choice}")}
    sound = [way for way in sorted(ways) if way and tokenizer.decode(list(way)).strip() == choice]
    if not sound:
        raise ValueError(
            f"the choice {choice[:60]!r} is nothing that the model's vocabulary can write; name it in other characters"
        )
    return tuple(sound)


def choice_probabilities(
    ways: Sequence[Sequence[Sequence[int]]],
    eos_token_ids: Sequence[int],
    logits: Float32,
    append: Callable[[Sequence[int]], Float32],
    rewind: Callable[[int], None],
    should_continue: Callable[[], bool] = lambda: True,
) -> tuple[NDArray[np.float64], int]:
    """How probable each choice is among them (they add up to 1), and how many tokens were weighed for it.

    A choice's probability is that of all of its tokens one after another and of the end behind them, summed over
    ``ways`` to write it; so that "no" is not taken for "not sure", nor one choice for another that it begins.
    ``logits`` (vocabulary,) are what the model says first; ``append`` adds tokens and says what comes next, ``rewind``
    takes as many back. Where ``should_continue`` says no, probabilities are NaN.

    Raises:
        BackendError: the model's logits are not numbers.
    """
    tree: dict[int, Any] = {}
    for choice, sequences in enumerate(ways):
        for sequence in sequences:
            node = tree
            for token in sequence:
                node = node.setdefault(token, {})
            node[_END] = choice
    found = np.full(len(ways), -np.inf)
    weighed = 0

    def walk(node: dict[int, Any], logits: Float32, so_far: float) -> bool:
        nonlocal weighed
        scores = _log_softmax(logits)
        if _END in node:
            end = float(np.logaddexp.reduce(scores[list(eos_token_ids)]))
            found[node[_END]] = np.logaddexp(found[node[_END]], so_far + end)
        for token, following in node.items():
            if token == _END:
                continue
            if not should_continue():
                return False
            weighed += 1
            if not walk(following, append((token,)), so_far + float(scores[token])):
                return False
            rewind(1)
        return True

    if not walk(tree, logits, 0.0):
        return np.full(len(ways), np.nan), weighed
    shares = np.exp(found - np.logaddexp.reduce(found))
    return shares, weighed


_END = -1  # no token


def _log_softmax(logits: Float32) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise BackendError(
            "the model's logits are NaN or infinite; its weights or engines are damaged: edge-engines verify BUNDLE"
        )
    scores = logits.astype(np.float64) - logits.max()
    return np.asarray(scores - np.log(np.exp(scores).sum()))
