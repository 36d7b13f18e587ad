"""A bundle, opened inside a byte budget, that turns frames into inspection reports.

Wires the parts in the order of the walk of a frame; each part knows its own business.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import check_target, device_memory_bytes
from edge_runtime.bundle.manifest import PromptSpec, prompt_around_image
from edge_runtime.bundle.opening import Bundle, load_bundle
from edge_runtime.bundle.report_schema import open_with_schema, question_prompt
from edge_runtime.errors import BackendError, BudgetExceededError, BundleCorruptError, SchemaError
from edge_runtime.language.generate import Answer, text_of, write_answer
from edge_runtime.language.grammar import Grammar
from edge_runtime.language.questions import Choice, Json, Reply, Text, choice_probabilities, choice_tokens
from edge_runtime.language.tokenizer import PromptTokens, load_tokenizer, prompt_tokens
from edge_runtime.loaded_bundle import LoadedBundle
from edge_runtime.memory.monitor import DegradationLevel, LevelChange, ResourceMonitor, limits_of
from edge_runtime.memory.plan import MemoryPlan, parse_bytes, plan_memory
from edge_runtime.memory.telemetry import total_bytes
from edge_runtime.reports.report import (
    InspectionReport,
    Region,
    Timings,
    answer_from_findings,
    answer_schema,
    widest_finding,
)
from edge_runtime.reports.schema import ReportSchema, load_schema
from edge_runtime.vision.image_processors import ImageLayout, layout_of, pixels_from_frame
from edge_runtime.vision.resampling import Float32


@dataclass(frozen=True)
class _Plan:
    """A question, ready to be put to a frame."""

    prompt: PromptTokens
    ways: tuple[tuple[tuple[int, ...], ...], ...]  # to write each choice
    grammar: Grammar | None  # of a text or of JSON
    least: int  # positions that an answer takes at least: what opens it, or the longest choice


@dataclass(frozen=True)
class _Looked:
    """A frame that was read with its prompt, up to where the answer goes on."""

    loaded: LoadedBundle
    level: DegradationLevel
    room: int  # positions behind the prompt
    layout: ImageLayout
    opening: tuple[int, ...]  # of every answer; it was read, too
    logits: Float32  # (vocabulary,), of what follows
    times_s: tuple[float, float, float, float]  # at the start, and behind preprocessing, vision and prefill


class Inspector:
    """Turns one frame after another into reports; must be closed, and is used by one thread at a time."""

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        budget: int | str | None = None,
        max_report_tokens: int = 256,
        threads: int | None = None,
        monitor: ResourceMonitor | None = None,
        beside_bytes: int = 0,
        schema: ReportSchema | str | Path | None = None,
    ) -> Inspector:
        """Load the bundle in the directory ``bundle``.

        ``budget`` is what the process may hold: bytes, ``"2GB"``, or None for all memory that is available now; the
        plan is checked against it before any weight is read. ``max_report_tokens`` bounds an answer, and so a frame's
        latency. ``threads`` is the number of CPU threads, None for all cores. ``monitor`` follows the machine's memory
        and heat; None is one with the usual limits. ``beside_bytes`` are what the process holds for something else.
        ``schema`` is what to report on instead of what the bundle was built for: a shipped schema's name, a YAML file,
        or a :class:`ReportSchema`.

        Raises:
            SchemaError: there is no such schema, it cannot be read, or its findings do not fit into the context.
            BundleError: the bundle must not be loaded; a subclass says why.
            BudgetExceededError: its plan exceeds the budget or the machine, or memory runs short while it is loaded.
            BackendError: the inference engine refuses it.
            ValueError: ``budget`` is no amount of memory, or a number is negative.
        """
        if max_report_tokens < 0:
            raise ValueError(f"max_report_tokens is {max_report_tokens}, expected 0 or more")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected 1 or more")
        budget_bytes = None if budget is None else parse_bytes(budget)
        monitor = monitor or ResourceMonitor(limits_of(total_bytes()))
        other_schema = None if schema is None else load_schema(schema)
        loaded = load_bundle(bundle)
        if budget_bytes is None:
            budget_bytes = device_memory_bytes(loaded.manifest)
        return cls(loaded, budget_bytes, max_report_tokens, threads, monitor, beside_bytes, other_schema)

    def __init__(
        self,
        bundle: Bundle,
        budget_bytes: int | None,
        max_report_tokens: int,
        threads: int | None,
        monitor: ResourceMonitor,
        beside_bytes: int,
        schema: ReportSchema | None = None,
    ) -> None:
        is_own_schema = schema is None
        bundle, self._reports_asked = open_with_schema(bundle, schema)
        self.bundle, self.schema = bundle, self._reports_asked.schema
        self._at_work = threading.Lock()
        manifest, model = bundle.manifest, bundle.manifest.model
        check_target(manifest)
        self._tokenizer = tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
        prompt = prompt_tokens(tokenizer, manifest.prompt, model.image_token_id)
        self._prefix = prompt.before_image
        self._asked = ("", prompt.after_image)
        schema, steps = self.schema, manifest.coordinates.steps
        held_to = answer_schema(schema, steps)
        self._grammar = Grammar(tokenizer, model.vocab_size, model.eos_token_ids, held_to)

        prompt_length = len(prompt.before_image) + manifest.image.max_tokens + len(prompt.after_image)
        opening_length = len(self._grammar.restart())
        positions = manifest.context_tokens
        finding = answer_from_findings([widest_finding(schema)], schema, steps)
        finding_length = len(tokenizer.encode(finding, add_special_tokens=False).ids)
        if is_own_schema and prompt_length + opening_length > positions:
            raise BundleCorruptError(
                f"prompt and image take {prompt_length} of {positions} positions, which leaves no room for an answer; "
                "rebuild the bundle with a shorter prompt, or a larger --context"
            )
        if not is_own_schema and prompt_length + finding_length > positions:
            raise SchemaError(
                f"the schema {schema.name} cannot be decoded within the context: with it, prompt and image take "
                f"{prompt_length} of {positions} positions, and a finding up to {finding_length} before its "
                "description; name fewer classes or values, in fewer words, or build with a larger --context"
            )
        self._max_tokens = min(max_report_tokens, positions - prompt_length)
        self._opening_length = opening_length
        self._before_question = prompt_length - len(prompt.after_image)
        capacity = prompt_length + max(self._max_tokens, opening_length)
        self._room = capacity - self._before_question  # positions behind the image
        self.monitor = monitor
        self._memory_plan = monitor.admit(plan_memory(manifest, capacity, beside_bytes), budget_bytes)
        loaded = LoadedBundle(bundle, self._memory_plan, monitor, threads, prompt.before_image, capacity)
        self._loaded: LoadedBundle | None = loaded
        self._measured = loaded.measured

    @property
    def memory_plan(self) -> MemoryPlan:
        """Bytes as planned and as measured; activations are measured at the first frame. Any thread may ask."""
        return self._memory_plan.with_measured(self._measured)

    def inspect(
        self,
        frame: NDArray[np.uint8],
        question: str = "",
        should_continue: Callable[[str], bool] = lambda written: True,
    ) -> InspectionReport:
        """The report of ``frame``: uint8 (H, W, 3), BGR as OpenCV gives it, of any size.

        ``question`` is put to the model behind the image, before it answers; an answer has fewer tokens then.
        ``should_continue`` is asked before each of the model's tokens, with the answer so far; where it says no (a
        deadline has passed, nobody waits any more), the report ends after the last complete finding, and is marked
        truncated. Where memory runs out meanwhile, it ends likewise; the next frame waits until there is some again.

        Raises:
            FrameError: the frame cannot be inspected; the next one can.
            BudgetExceededError: memory has not come back, or ``should_continue`` says no while memory or heat pauses
                inspections; frames so far are reported, and this one is not.
            ValueError: the question is too long, or holds the token that stands for the image.
            BackendError: the engine failed, the inspector is closed, or another thread is inspecting.
        """
        with self._alone():
            return self._report(frame, question, should_continue)

    def ask(
        self,
        frame: NDArray[np.uint8],
        question: str,
        answer: Text | Choice | Json | Mapping[str, Any] = Text(),  # noqa: B008  frozen
        should_continue: Callable[[str], bool] = lambda written: True,
    ) -> Reply:
        """What the model answers to ``question`` about ``frame``: uint8 (H, W, 3), BGR, of any size.

        ``answer`` says in which form: :class:`Text`, :class:`Choice`, :class:`Json`, or a JSON schema. The question
        stands behind the image, in place of the instruction that asks for reports; the choices follow it. Another
        question about the same frame costs its own tokens only; the first one after a report, or a report after it,
        reads the image's tokens again, but does not look at the frame again. ``should_continue`` is asked before each
        token with the answer so far; where it says no, the reply is marked truncated.

        Raises:
            FrameError: the frame cannot be looked at; the next one can.
            BudgetExceededError: as of :meth:`inspect`.
            ValueError: the question is empty, too long, or holds the image's token; there are no two choices, or one
                that cannot be written; answers cannot be held to the JSON schema.
            BackendError: the engine failed, the inspector is closed, or another thread uses it.
        """
        with self._alone():
            form = Json(answer) if isinstance(answer, Mapping) else answer
            return self._reply(frame, self._plan_reply(question, form), form, should_continue)

    def check_ask(self, question: str, answer: Text | Choice | Json) -> None:
        """Raise ValueError, as :meth:`ask` does, where it cannot be asked; any thread may ask."""
        self._plan_reply(question, answer)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._at_work.acquire(blocking=False):  # two frames would be mixed in one cache
            raise BackendError("another thread is inspecting with this inspector; take turns, or open one a thread")
        try:
            yield
        finally:
            self._at_work.release()

    def _report(
        self, frame: NDArray[np.uint8], question: str, should_continue: Callable[[str], bool]
    ) -> InspectionReport:
        prompt = PromptTokens(self._prefix, self._after_image(question))
        looked = self._look(frame, prompt, self._grammar, should_continue, self._opening_length)
        max_tokens = min(round(self._max_tokens * looked.level.report_share), looked.room)
        answer = self._write(looked, self._grammar, max_tokens, should_continue)
        coordinates, layout = self.bundle.manifest.coordinates, looked.layout

        def in_frame(region: Region) -> Region:
            return layout.in_frame(layout.in_picture(region, coordinates))

        findings = tuple(
            replace(finding, region=in_frame(finding.region), boxes=tuple(map(in_frame, finding.boxes)))
            for finding in answer.findings(self.schema, coordinates.steps)
        )
        return InspectionReport(
            findings=findings,
            truncated=not answer.finished,
            tokens=len(answer.texts),
            seen=(looked.layout.seen,),
            image_tokens=looked.layout.tokens,
            grid=looked.layout.grid,
            schema=self.schema,
            timings=self._finish(looked),
        )

    def _plan_reply(self, question: str, form: Text | Choice | Json) -> _Plan:
        """The prompt of a question, and what its answers are held to."""
        said = question
        if isinstance(form, Choice):
            ways = choice_tokens(self._tokenizer, form.choices)
            said = f"{question}\nAnswer with one of: {', '.join(form.choices)}."
            longest = max(len(way) for each in ways for way in each)
        else:
            if form.max_tokens < 1:
                raise ValueError(f"max_tokens is {form.max_tokens}; expected 1 or more")
            grammar = self._grammar.of_others(form.schema if isinstance(form, Json) else None)
            longest = len(grammar.restart()) + 1
        prompt = self._question_prompt(question, said, longest)
        return _Plan(prompt, ways, None, longest) if isinstance(form, Choice) else _Plan(prompt, (), grammar, longest)

    def _reply(
        self,
        frame: NDArray[np.uint8],
        plan: _Plan,
        form: Text | Choice | Json,
        should_continue: Callable[[str], bool],
    ) -> Reply:
        looked = self._look(frame, plan.prompt, plan.grammar, should_continue, plan.least)
        if isinstance(form, Choice):
            return self._choose(looked, form, plan.ways, should_continue)
        grammar = plan.grammar
        assert grammar is not None, "only a choice has none"
        max_tokens = min(form.max_tokens, looked.room)
        answer = self._write(looked, grammar, max_tokens, should_continue)
        eos = {grammar.text_of(token) for token in self.bundle.manifest.model.eos_token_ids}
        ended = bool(answer.texts) and answer.texts[-1] in eos
        text = replace(answer, texts=answer.texts[:-1] if ended else answer.texts).written
        value = json.loads(text) if isinstance(form, Json) and answer.finished else None
        return Reply(
            text=text if isinstance(form, Json) else text.strip(),
            log_probability=float(np.log(answer.probabilities).sum()),
            truncated=not answer.finished,
            value=value,
            tokens=len(answer.texts),
            seen=(looked.layout.seen,),
            image_tokens=looked.layout.tokens,
            timings=self._finish(looked),
        )

    def _choose(
        self,
        looked: _Looked,
        form: Choice,
        ways: Sequence[Sequence[Sequence[int]]],
        should_continue: Callable[[str], bool],
    ) -> Reply:
        decoder, eos = looked.loaded.decoder, self.bundle.manifest.model.eos_token_ids
        goes_on = self._in_memory(should_continue)
        shares, tokens = choice_probabilities(
            ways, eos, looked.logits, decoder.append, decoder.rewind, lambda: goes_on(b"")
        )
        names = [choice.strip() for choice in form.choices]
        cut = bool(np.isnan(shares).any())
        best = 0 if cut else int(shares.argmax())
        return Reply(
            text="" if cut else names[best],
            log_probability=float("-inf") if cut else float(np.log(shares[best])),
            truncated=cut,
            choices={} if cut else dict(zip(names, shares.tolist(), strict=True)),
            tokens=tokens,
            seen=(looked.layout.seen,),
            image_tokens=looked.layout.tokens,
            timings=self._finish(looked),
        )

    def _look(
        self,
        frame: NDArray[np.uint8],
        prompt: PromptTokens,
        grammar: Grammar | None,
        should_continue: Callable[[str], bool],
        least: int = 0,
    ) -> _Looked:
        """Read the prompt around ``frame``, and the opening of every answer under ``grammar``.

        There is room for ``least`` positions behind the prompt.
        """
        if self._loaded is None:
            raise BackendError("the inspector is closed; open another one")
        loaded, monitor = self._loaded, self.monitor
        while (level := monitor.poll()).busy_share == 0:
            if not should_continue(""):
                raise BudgetExceededError("the frame was not looked at: memory or heat pauses inspections; ask later")
            time.sleep(monitor.rest_s())
        image = self.bundle.manifest.image
        self._fit_cache(loaded, level, len(prompt.after_image) + least)
        room = loaded.capacity - len(prompt.before_image) - image.max_tokens - len(prompt.after_image)
        if room < least:
            raise BudgetExceededError(
                f"memory is short: the cache has room for {max(room, 0)} tokens of an answer that takes {least}; "
                "ask later"
            )
        monitor.begin_report()
        started_s = time.perf_counter()
        pixels = pixels_from_frame(frame, image)
        layout = layout_of(image, *frame.shape[:2])
        preprocessed_s = time.perf_counter()
        same_image = loaded.encode_image(pixels, layout)  # another question about a frame costs its own tokens only
        seen_s = time.perf_counter()
        opening = grammar.restart() if grammar else ()
        loaded.decoder.begin_with(prompt.before_image)
        logits = loaded.decoder.prefill((*prompt.after_image, *opening), layout.tokens, same_image)
        times_s = (started_s, preprocessed_s, seen_s, time.perf_counter())
        return _Looked(loaded, level, room, layout, opening, logits, times_s)

    def _write(
        self, looked: _Looked, grammar: Grammar, max_tokens: int, should_continue: Callable[[str], bool]
    ) -> Answer:
        goes_on, append = self._in_memory(should_continue), looked.loaded.decoder.append
        return write_answer(grammar, looked.opening, looked.logits, append, max_tokens, goes_on)

    def _in_memory(self, should_continue: Callable[[str], bool]) -> Callable[[bytes], bool]:
        return lambda written: should_continue(text_of(written)) and self.monitor.poll().busy_share > 0

    def _finish(self, looked: _Looked) -> Timings:
        started_s, preprocessed_s, seen_s, prefilled_s = looked.times_s
        finished_s = time.perf_counter()
        self.monitor.end_report()
        looked.loaded.measure_activations()
        self._measured = looked.loaded.measured
        return Timings(
            preprocess_ms=1e3 * (preprocessed_s - started_s),
            vision_ms=1e3 * (seen_s - preprocessed_s),
            prefill_ms=1e3 * (prefilled_s - seen_s),
            decode_ms=1e3 * (finished_s - prefilled_s),
            total_ms=1e3 * (finished_s - started_s),
        )

    def _question_prompt(self, question: str, said: str, answer_length: int) -> PromptTokens:
        """The prompt that puts ``said`` behind the image; ``question`` is what messages call it."""
        if not question.strip():
            raise ValueError("the question is empty; ask something")
        manifest = self.bundle.manifest
        prompt = question_prompt(manifest.prompt, self._reports_asked, said)
        tokens = self._tokens_around_image(prompt, question)
        room = self._before_question + self._room - len(tokens.before_image) - manifest.image.max_tokens
        self._check_length(len(tokens.after_image) + answer_length, room)
        return tokens

    def _after_image(self, question: str) -> tuple[int, ...]:
        """Tokens behind the image; those of the last question are kept, as the next frame's is mostly the same."""
        if question != self._asked[0]:
            self._asked = (question, self._question_tokens(question))
        return self._asked[1]

    def check_question(self, question: str) -> None:
        """Raise ValueError where ``question`` is too long, or holds the image token; any thread may ask."""
        self._question_tokens(question)

    def _question_tokens(self, question: str) -> tuple[int, ...]:
        prompt = self.bundle.manifest.prompt
        after = f"\n{question}{prompt.after_image}" if question else prompt.after_image
        tokens = self._tokens_around_image(prompt_around_image(prompt.before_image, after), question).after_image
        self._check_length(len(tokens) + self._opening_length, self._room)
        return tokens

    def _tokens_around_image(self, prompt: PromptSpec, question: str) -> PromptTokens:
        try:
            return prompt_tokens(self._tokenizer, prompt, self.bundle.manifest.model.image_token_id)
        except BundleCorruptError as error:
            raise ValueError(f"the question {question[:60]!r} holds the image token; leave it out") from error

    def _check_length(self, taken: int, room: int) -> None:
        if taken > room:
            raise ValueError(
                f"the question takes {taken} positions with what opens an answer, of {room}; ask in fewer words"
            )

    def rest_s(self) -> float:
        """How long the next frame had better wait, for memory or for heat; then ask again, before taking the frame.

        Raises:
            BudgetExceededError: memory has not come back.
        """
        return self.monitor.rest_s()

    @property
    def level_changes(self) -> tuple[LevelChange, ...]:
        """What was given up for memory or for heat, and taken back, oldest first. Any thread may ask."""
        return self.monitor.level_changes

    def close(self) -> None:
        """Release engines, cache and buffers; a second call does nothing."""
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            loaded.close()

    def _fit_cache(self, loaded: LoadedBundle, level: DegradationLevel, question_length: int) -> None:
        """Make the cache as large as ``level`` allows a report to be."""
        report = max(round(self._max_tokens * level.cache_share), self._opening_length)
        wanted = self._before_question + min(question_length + report, self._room)
        if level.cache_share == 1:
            wanted = self._before_question + self._room
        if wanted != loaded.capacity:
            try:
                loaded.resize(wanted)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
