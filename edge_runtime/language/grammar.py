"""Which tokens may come next in an answer, by llguidance; knows tokens and a schema, no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_runtime.errors import BundleCorruptError


class Grammar:
    """A JSON schema held against one answer at a time.

    Over half of an answer's tokens are forced (the names of fields, quotes, brackets): they come back from
    :meth:`restart` and :meth:`accept` at once, so that no logits are computed for them.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int], schema: Mapping[str, Any]):
        try:
            self._tokens = LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=list(eos_token_ids))
            self._matcher = LLMatcher(self._tokens, _grammar_of(schema))
        except Exception as error:  # a Rust panic or ValueError, by version
            raise BundleCorruptError(
                f"decoding cannot be constrained with this tokenizer: {error}; it needs byte-level or byte-fallback BPE"
            ) from error
        self._check()
        self._bits = allocate_token_bitmask(1, vocab_size)
        self._bytes = self._bits.view(np.uint8)[0]
        self._vocab_size = vocab_size
        self._allowed: NDArray[np.intp] = np.empty(0, np.intp)

    def of_others(self, schema: Mapping[str, Any] | None) -> Grammar:
        """The grammar of other answers in the same tokens: JSON under ``schema``, or any text where that is None.

        Raises:
            ValueError: the schema is none, or asks for what cannot be held to; the message has the library's reason.
        """
        try:
            text = LLMatcher.grammar_from_regex("(?s:.*)") if schema is None else _grammar_of(schema)
            reason = str(LLMatcher.validate_grammar(text, self._tokens))
        except Exception as error:  # a Rust panic, or ValueError, TypeError or RecursionError, by what is wrong
            reason = str(error) or type(error).__name__
        if reason:
            raise ValueError(f"answers cannot be held to this JSON schema: {' '.join(reason.split())[:300]}")
        other = copy(self)
        other._matcher = LLMatcher(self._tokens, text)
        other._bits = allocate_token_bitmask(1, self._vocab_size)
        other._bytes = other._bits.view(np.uint8)[0]
        other._check()
        return other

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return bool(self._matcher.is_stopped())

    @property
    def allowed(self) -> NDArray[np.intp]:
        """Ids that may come next, ascending: at least two, as a single one would have been forced."""
        return self._allowed

    def restart(self) -> tuple[int, ...]:
        """Begin a new answer; returns the tokens that open every answer."""
        self._matcher.reset()
        return self._advance()

    def accept(self, token: int) -> tuple[int, ...]:
        """Append one of :attr:`allowed`; returns the tokens that must follow it."""
        if not self._matcher.consume_token(token):
            self._check()
        return self._advance()

    def allowed_along(self, tokens: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
        """For each of ``tokens``, an answer or the beginning of one, the ids that may stand there; none where forced.

        No answer is under way afterwards: :meth:`restart` begins the next.

        Raises:
            ValueError: the schema has no such answer.
        """
        self._matcher.reset()
        found = []
        for token in tokens:
            forced = self._matcher.compute_ff_tokens()
            found.append(np.empty(0, np.intp) if forced else self._next())
            if not self._matcher.consume_token(token):
                raise ValueError(f"token {token}, number {len(found)} of {len(tokens)}, cannot stand there")
        return tuple(found)

    def text_of(self, token: int) -> bytes:
        """The bytes that ``token`` writes."""
        return bytes(self._tokens.decode_bytes([token]))

    def _advance(self) -> tuple[int, ...]:
        forced: list[int] = []
        while not self._matcher.is_stopped():
            tokens = self._matcher.compute_ff_tokens()
            if not tokens:
                self._allowed = self._next()
                if self._allowed.size > 1:
                    break
                tokens = self._allowed.tolist()
            self._matcher.consume_tokens(tokens)
            forced += tokens
        self._check()
        return tuple(forced)

    def _next(self) -> NDArray[np.intp]:
        fill_next_token_bitmask(self._matcher, self._bits)
        return np.flatnonzero(np.unpackbits(self._bytes, count=self._vocab_size, bitorder="little"))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BundleCorruptError(f"the answer's grammar failed: {self._matcher.get_error()}")


def _grammar_of(schema: Mapping[str, Any]) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False}))
