"""Beginnings of answers for calibration: what a decoder reads while it writes; knows no image.

A decoder that was only shown prompts would be clipped at the words it writes itself. The renderer knows the perfect
answer to its own scenes; whose image an answer follows matters little for ranges, so that photographs get them too.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from edge_runtime.report import answer_from_findings
from engines.calibration.images import FIRST_SEED
from engines.reference.scenes import render_scene

_ANSWERS = 64
ANSWER_TOKENS = 48  # about one finding; equally many for all, as TensorRT calibrates at one shape
_OFFSETS = 16  # answers begin up to so many tokens late: the last layer sees but the last row, and that is to vary


def answer_tokens(
    tokenizer: Tokenizer, answers: int = _ANSWERS, tokens: int = ANSWER_TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Runs of ``tokens`` ids from near the beginning of as many answers, to rendered scenes with enough to say."""
    found: list[tuple[int, ...]] = []
    seed = FIRST_SEED
    while len(found) < answers:
        text = answer_from_findings(render_scene(seed, (96, 128)).findings)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        late = len(found) % _OFFSETS
        if len(ids) >= late + tokens:
            found.append(tuple(ids[late : late + tokens]))
        seed += 1
    return tuple(found)
