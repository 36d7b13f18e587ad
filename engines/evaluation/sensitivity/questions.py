"""Yes-or-no questions about a scene, answered by what a model would write next; knows one answer at a time.

The reference inspector was taught one prompt, and answers no questions in words. But it writes its findings in the
order of the classes, so that wherever another finding may begin, it decides whether each class that is left is in the
scene. Led along the true answer, it answers "is there a crack?", "is there corrosion?", ... with probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_runtime.reports.report import DEFECT_CLASSES, Finding, Region, answer_from_findings
from engines.evaluation.fidelity import Trace


@dataclass(frozen=True)
class Opening:
    """Where a finding may begin: the model goes on or closes the answer, then names a class."""

    parting: int  # position in the forced's tokens
    should_continue: int  # token
    close: int  # token
    naming: int  # position
    classes: tuple[int, ...]  # tokens that classes begin with, in the order of DEFECT_CLASSES
    next_class: int  # the true one's index, or how many there are where the answer ends


@dataclass(frozen=True)
class TeacherForcing:
    """What a model is led along: the true answer, left open for one more finding."""

    tokens: tuple[int, ...]
    answer: tuple[int, ...]  # what is right at the first positions: the true answer, closed
    openings: tuple[Opening, ...]


def teacher_forcing_of(findings: Sequence[Finding], tokenizer: Tokenizer) -> TeacherForcing:
    """The forced for true findings, which are in the order of the classes."""

    def encoded(found: Sequence[Finding]) -> list[int]:
        return list(tokenizer.encode(answer_from_findings(found), add_special_tokens=False).ids)

    openings = []
    for count in range(len(findings) + 1):
        closed = encoded(findings[:count])
        opened = [encoded([*findings[:count], replace(_ANY, defect_class=name)]) for name in DEFECT_CLASSES]
        parting, naming = _first_difference(closed, opened[0]), min(_first_difference(opened[0], o) for o in opened[1:])
        following = DEFECT_CLASSES.index(findings[count].defect_class) if count < len(findings) else len(DEFECT_CLASSES)
        classes = tuple(tokens[naming] for tokens in opened)
        openings.append(Opening(parting, opened[0][parting], closed[parting], naming, classes, following))
    last = openings[-1]
    return TeacherForcing(tuple(opened[0][: last.naming + 1]), tuple(closed[: last.parting + 1]), tuple(openings))


def answer_loss(trace: Trace, forced: TeacherForcing) -> float:
    """Nats a choice that the true answer costs the model, to where it closes."""
    logits = trace.logits[: len(forced.answer)]
    losses = -log_softmax(logits)[np.arange(len(logits)), list(forced.answer)]
    return float(losses[are_unforced(logits)].mean())


def yes_probabilities(trace: Trace, forced: TeacherForcing) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For each class, how probable the model thinks it, and whether it is there."""
    shares, there = np.zeros(len(DEFECT_CLASSES)), np.zeros(len(DEFECT_CLASSES), np.bool_)
    first = 0  # classes before it have been asked about
    for opening in forced.openings:
        if first == len(DEFECT_CLASSES):
            break  # all are there
        should_continue, close = _shares(trace.logits[opening.parting], (opening.should_continue, opening.close))
        named = should_continue * _shares(trace.logits[opening.naming], opening.classes[first:])
        left = close + named[::-1].cumsum()[::-1]  # once the classes before are denied
        asked = slice(first, opening.next_class + 1)
        shares[asked] = (named / left)[: opening.next_class + 1 - first]
        there[opening.next_class : opening.next_class + 1] = True
        first = opening.next_class + 1
    return shares, there


def are_unforced(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of which rows there is more than one token to choose from."""
    return np.asarray(np.isfinite(logits).sum(axis=-1) > 1)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of the probabilities, row by row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def _shares(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    return np.exp(log_softmax(logits[list(tokens)]).astype(np.float64))


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    return next(index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


_ANY = Finding(DEFECT_CLASSES[0], "minor", Region(0, 0, 1, 1), 1.0, "", "monitor")
