"""Writing one answer under the grammar, and reading findings and confidences out of it; knows no engine."""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from edge_runtime import progress
from edge_runtime.errors import BackendError
from edge_runtime.language.grammar import Grammar
from edge_runtime.reports.report import REGION_STEPS, Finding, findings_from_answer, items_of_answer
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from edge_runtime.vision.resampling import Float32


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, each with the probability with which it was chosen (1.0 where it was forced)."""

    texts: tuple[bytes, ...]
    probabilities: tuple[float, ...]
    finished: bool  # False where the limit cut it

    @property
    def written(self) -> str:
        """The text, without a last character of which only a part is there."""
        return text_of(b"".join(self.texts))

    def findings(self, schema: ReportSchema = BRIDGE, coordinate_steps: int = REGION_STEPS) -> tuple[Finding, ...]:
        """Every complete finding; its confidence is that of opening it and naming its class."""
        written = self.written
        ends = list(accumulate(map(len, self.texts)))
        confidences = []
        for item in items_of_answer(written):
            # Tokens that hold a byte of `,{` or of the class name; the rest between them is forced anyway.
            first = bisect_right(ends, len(written[: item.start].encode()))
            last = bisect_left(ends, len(written[: item.named].encode()))
            confidences.append(float(np.prod(self.probabilities[first : last + 1])))
        return findings_from_answer(written, confidences, schema, coordinate_steps)


def text_of(written: bytes) -> str:
    """UTF-8 as text, without a last character that was cut: a token need not hold a whole one."""
    return codecs.utf_8_decode(written, "strict", False)[0]


def write_answer(
    grammar: Grammar,
    opening: Sequence[int],
    logits: Float32,
    next_logits: Callable[[Sequence[int]], Float32],
    max_tokens: int,
    should_continue: Callable[[bytes], bool] = lambda written: True,
) -> Answer:
    """Choose the likeliest allowed token until the answer is complete, has ``max_tokens`` tokens, or is to end.

    ``opening`` is what ``grammar.restart()`` gave, ``logits`` (vocabulary,) what the model says after it;
    ``next_logits`` appends tokens and says what the model expects next. ``should_continue`` is asked before each of the
    model's own tokens, with what is written so far.

    Raises:
        BackendError: the model's logits are not numbers.
    """
    tokens = list(opening)
    probabilities = [1.0] * len(tokens)
    written = b"".join(map(grammar.text_of, tokens))
    progress.begin(f"writing the answer, of {max_tokens} tokens at most", max_tokens)
    while not grammar.finished and len(tokens) < max_tokens and should_continue(written):
        token, probability = _choose(logits, grammar)
        forced = grammar.accept(token)
        tokens += (token, *forced)
        written += b"".join(map(grammar.text_of, (token, *forced)))
        probabilities += (probability, *(1.0 for _ in forced))
        if not grammar.finished and len(tokens) < max_tokens:
            logits = next_logits((token, *forced))
    finished = grammar.finished and len(tokens) <= max_tokens
    texts = tuple(grammar.text_of(token) for token in tokens[:max_tokens])
    return Answer(texts, tuple(probabilities[:max_tokens]), finished)


def _choose(logits: Float32, grammar: Grammar) -> tuple[int, float]:
    allowed = grammar.allowed
    scores = logits[allowed]
    best = int(scores.argmax())  # the first NaN, if there is one
    if not np.isfinite(scores[best]):
        raise BackendError(
            "the model's logits are NaN or infinite; its weights or engines are damaged: edge-engines verify BUNDLE"
        )
    probability = 1.0 / float(np.exp(scores - scores[best]).sum())
    return int(allowed[best]), probability
