"""A bundle, opened inside a byte budget, that turns frames into inspection reports.

Wires the parts in the order of the walk of a frame; each part knows its own business.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answer import write_answer
from edge_runtime.backends import check_target, open_backend
from edge_runtime.backends.base import Array, Backend, Engine, Run
from edge_runtime.budget import Ledger, available_bytes, check_fits, device_bytes, parse_bytes, plan_ledger
from edge_runtime.bundle import Bundle, Component, Manifest, PromptSpec, TensorSpec, load_bundle
from edge_runtime.decoder import Decoder
from edge_runtime.embedding import open_embedding
from edge_runtime.errors import BackendError, BudgetExceededError, BundleCorruptError
from edge_runtime.grammar import Grammar
from edge_runtime.preprocessing import pixels_from_frame
from edge_runtime.report import InspectionReport, Timings, answer_schema
from edge_runtime.telemetry import resident_bytes
from edge_runtime.tokenization import load_tokenizer, prompt_tokens


class Inspector:
    """Turns one frame after another into reports; must be closed, and is used by one thread at a time."""

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        budget: int | str | None = None,
        max_report_tokens: int = 256,
        threads: int | None = None,
    ) -> Inspector:
        """Load the bundle in the directory ``bundle``.

        ``budget`` is what the process may hold: bytes, ``"2GB"``, or None for all memory that is available now; the
        plan is checked against it before any weight is read. ``max_report_tokens`` bounds an answer, and so a frame's
        latency. ``threads`` is the number of CPU threads, None for all cores.

        Raises:
            BundleError: the bundle must not be loaded; a subclass says why.
            BudgetExceededError: its plan exceeds the budget, or what it takes does.
            BackendError: the inference engine refuses it.
            ValueError: ``budget`` is no amount of memory, or a number is negative.
        """
        if max_report_tokens < 0:
            raise ValueError(f"max_report_tokens is {max_report_tokens}, expected 0 or more")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected 1 or more")
        budget_bytes = available_bytes() if budget is None else parse_bytes(budget)
        return cls(load_bundle(bundle), budget_bytes, max_report_tokens, threads)

    def __init__(self, bundle: Bundle, budget_bytes: int, max_report_tokens: int, threads: int | None) -> None:
        self.bundle = bundle
        manifest, model = bundle.manifest, bundle.manifest.model
        check_target(manifest)
        self._tokenizer = tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
        prompt = prompt_tokens(tokenizer, manifest.prompt, model.image_token_id)
        self._asked = ("", prompt.after_image)
        self._grammar = Grammar(tokenizer, model.vocab_size, model.eos_token_ids, answer_schema())

        prompt_length = len(prompt.before_image) + model.num_image_tokens + len(prompt.after_image)
        opening_length = len(self._grammar.restart())
        positions = manifest.context_tokens
        if prompt_length + opening_length > positions:
            raise BundleCorruptError(
                f"prompt and image take {prompt_length} of {positions} positions, which leaves no room for an answer; "
                "rebuild the bundle with a shorter prompt, or a larger --context"
            )
        self._max_tokens = min(max_report_tokens, positions - prompt_length)
        capacity = prompt_length + max(self._max_tokens, opening_length)
        self._room = capacity - prompt_length + len(prompt.after_image)  # positions behind the image
        self._ledger = check_fits(plan_ledger(manifest, capacity), budget_bytes)

        self._measured: dict[str, int] = {}
        try:
            self._loaded: _Loaded | None = self._load(prompt.before_image, capacity, threads)
        except BudgetExceededError as error:
            raise BudgetExceededError(f"{error}\n{self.ledger.table()}") from error

    def _load(self, prefix: Sequence[int], capacity: int, threads: int | None) -> _Loaded:
        manifest = self.bundle.manifest
        with ExitStack() as stack:  # closes what was opened if the rest fails
            backend = open_backend(manifest, threads, device_bytes(self._ledger))
            stack.callback(backend.close)
            exact = {name: self._ledger.item(name).planned_bytes for name in ("kv_cache", "image_tokens")}
            self._measured |= {"process": resident_bytes(), **exact}
            load = _Loader(self.bundle, backend, self._measured, stack)
            vision = load(manifest.component("vision_encoder"))
            connector = load(manifest.component("connector"))
            heads = [load(head) for head in manifest.lm_heads]  # takes twice its size for a moment, so before the rest
            groups = [load(group) for group in manifest.decoder_groups]
            embedding = open_embedding(self.bundle)
            held_bytes = backend.held_bytes
            decoder = Decoder(backend, manifest, embedding, groups, heads, prefix, capacity)
            pixels, run_vision = _bind_vision(backend, manifest, vision, connector, decoder.image_rows)
            return _Loaded(backend, held_bytes, pixels, run_vision, decoder, stack.pop_all())

    @property
    def ledger(self) -> Ledger:
        """Bytes as planned and as measured; activations are measured at the first frame. Any thread may ask."""
        return self._ledger.with_measured(self._measured)

    def inspect(
        self, frame: NDArray[np.uint8], question: str = "", go_on: Callable[[str], bool] = lambda written: True
    ) -> InspectionReport:
        """The report of ``frame``: uint8 (H, W, 3), BGR as OpenCV gives it, of any size.

        ``question`` is put to the model behind the image, before it answers; an answer has fewer tokens then.
        ``go_on`` is asked before each of the model's tokens, with the answer so far; where it says no (a deadline has
        passed, nobody waits any more), the report ends after the last complete finding, and is marked truncated.

        Raises:
            FrameError: the frame cannot be inspected; the next one can.
            ValueError: the question is too long, or holds the token that stands for the image.
            BackendError: the engine failed, or the inspector is closed.
        """
        if self._loaded is None:
            raise BackendError("the inspector is closed; open another one")
        loaded = self._loaded
        after_image = self._after_image(question)
        started_s = time.perf_counter()
        loaded.pixels[...] = pixels_from_frame(frame, self.bundle.manifest.preprocessing)
        preprocessed_s = time.perf_counter()
        loaded.run_vision()
        loaded.backend.synchronize()
        seen_s = time.perf_counter()
        opening = self._grammar.restart()
        logits = loaded.decoder.prefill((*after_image, *opening))
        prefilled_s = time.perf_counter()
        max_tokens = min(self._max_tokens, self._room - len(after_image))
        answer = write_answer(
            self._grammar, opening, logits, loaded.decoder.append, max_tokens, lambda written: go_on(written.decode())
        )
        findings = answer.findings()
        finished_s = time.perf_counter()

        if "activations" not in self._measured:
            grown_bytes = loaded.backend.held_bytes - loaded.held_bytes
            activations = max(grown_bytes - self._measured["kv_cache"] - self._measured["image_tokens"], 0)
            self._measured = {**self._measured, "activations": activations}  # anew: another thread may read the old one
        return InspectionReport(
            findings=findings,
            truncated=not answer.finished,
            tokens=len(answer.texts),
            timings=Timings(
                preprocess_ms=1e3 * (preprocessed_s - started_s),
                vision_ms=1e3 * (seen_s - preprocessed_s),
                prefill_ms=1e3 * (prefilled_s - seen_s),
                decode_ms=1e3 * (finished_s - prefilled_s),
                total_ms=1e3 * (finished_s - started_s),
            ),
        )

    def _after_image(self, question: str) -> tuple[int, ...]:
        """Tokens behind the image; those of the last question are kept, as the next frame's is mostly the same."""
        if question != self._asked[0]:
            prompt, image_token_id = self.bundle.manifest.prompt, self.bundle.manifest.model.image_token_id
            asking = PromptSpec(
                prompt.before_image, f"\n{question}{prompt.after_image}" if question else prompt.after_image
            )
            try:
                tokens = prompt_tokens(self._tokenizer, asking, image_token_id).after_image
            except BundleCorruptError as error:
                raise ValueError(f"the question {question[:60]!r} holds the image token; leave it out") from error
            taken, room = len(tokens) + len(self._grammar.restart()), self._room
            if taken > room:
                raise ValueError(
                    f"the question takes {taken} positions with what opens an answer, of {room}; ask in fewer words"
                )
            self._asked = (question, tokens)
        return self._asked[1]

    def close(self) -> None:
        """Release engines, cache and buffers; a second call does nothing."""
        if self._loaded is not None:
            opened, self._loaded = self._loaded.opened, None  # what is bound holds on to the engines' memory too
            opened.close()
            _return_free_memory()

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _return_free_memory() -> None:
    """Give back what the C library keeps for later: of 750 MB, closing alone returned 40, this 650."""
    with suppress(AttributeError, OSError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class _Loaded:
    """What takes memory."""

    backend: Backend
    held_bytes: int  # by the backend, when the engines were loaded and nothing else was there
    pixels: Array  # (1, 3, H, W) f32, to be filled
    run_vision: Run  # pixels to decoder.image_rows
    decoder: Decoder
    opened: ExitStack


class _Loader:
    """Loads one component after another and notes what each added to the memory that is held."""

    def __init__(self, bundle: Bundle, backend: Backend, measured: dict[str, int], stack: ExitStack) -> None:
        self._bundle = bundle
        self._backend = backend
        self._measured = measured
        self._stack = stack

    def __call__(self, component: Component) -> Engine:
        before = self._backend.held_bytes
        engine = self._backend.load(self._bundle.file(component.files[0]))
        self._stack.callback(engine.close)
        added = max(self._backend.held_bytes - before, 0)
        self._measured[component.kind] = self._measured.get(component.kind, 0) + added
        return engine


def _bind_vision(
    backend: Backend, manifest: Manifest, vision: Engine, connector: Engine, image_rows: Array
) -> tuple[Array, Run]:
    """The pixel tensor to fill, and the call that turns it into ``image_rows``."""
    spec = manifest.component("vision_encoder")
    pixels = backend.shared(*_size(spec.inputs[0]))  # (1, 3, H, W)
    features = backend.private(*_size(spec.outputs[0]))  # (1, P, Dv)
    run_vision = vision.bind({"pixel_values": pixels}, {"features": features})
    run_connector = connector.bind({"features": features}, {"image_embeddings": image_rows})

    return pixels, backend.record([run_vision, run_connector])


def _size(spec: TensorSpec) -> tuple[list[int], str]:
    return [size for size in spec.shape if isinstance(size, int)], spec.dtype
