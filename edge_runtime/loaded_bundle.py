"""A bundle's engines in memory, loaded one after another while there is room, and bound to each other.

Knows what each of them takes; knows no text, and no report.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from edge_runtime import progress
from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Engine
from edge_runtime.bundle.manifest import Component
from edge_runtime.bundle.opening import Bundle
from edge_runtime.errors import BudgetExceededError
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.embedding import Embedding, open_embedding
from edge_runtime.memory.monitor import ResourceMonitor
from edge_runtime.memory.plan import MemoryPlan, device_bytes, loading_bytes
from edge_runtime.memory.telemetry import resident_bytes
from edge_runtime.vision.image_encoder import ImageEncoder
from edge_runtime.vision.image_processors import ImageLayout
from edge_runtime.vision.resampling import Float32

_GROWING = ("kv_cache", "positions", "image_tokens")  # what a memory plan holds that grows with the context


class LoadedBundle:
    """Everything between a pixel tensor and logits; must be closed."""

    def __init__(
        self,
        bundle: Bundle,
        memory_plan: MemoryPlan,
        monitor: ResourceMonitor,
        threads: int | None,
        prefix: Sequence[int],
        capacity: int,
    ) -> None:
        """Load ``bundle`` as ``memory_plan`` was admitted; ``prefix`` stands before every image, ``capacity`` is in
        tokens.

        Raises:
            BudgetExceededError: it takes more than planned, or memory has run short since; everything is freed again.
            BackendError: the inference engine refuses it.
        """
        self._manifest, self._memory_plan, self._monitor = bundle.manifest, memory_plan, monitor
        self._prefix, self._largest = tuple(prefix), capacity
        self._measured: Mapping[str, int] = {}
        try:
            with ExitStack() as stack:  # closes what was opened if the rest fails
                self.backend = open_backend(bundle.manifest, threads, device_bytes(memory_plan))
                stack.callback(self.backend.close)
                self._note("process", resident_bytes())
                self._engines = self._load_engines(bundle, stack)
                self._held_bytes = self.backend.held_bytes
                monitor.check_room("the cache", self._cache_bytes)
                self._bind(capacity)
                self._opened = stack.pop_all()
        except BudgetExceededError as error:
            raise BudgetExceededError(f"{error}\n{memory_plan.with_measured(self._measured).table()}") from error

    @property
    def measured(self) -> Mapping[str, int]:
        """Bytes by the memory plan's names, as far as they are known. Any thread may ask."""
        return self._measured

    def encode_image(self, pixels: Float32, layout: ImageLayout) -> bool:
        """Turn ``pixels`` (N, 3, H, W) into the image's rows of the prompt; returns whether they were there already."""
        return self._vision.encode(pixels, layout)

    def resize(self, capacity: int) -> None:
        """Give memory back with a smaller cache, or take it again, as far as there is room; the prefix is run anew.

        Without effect where the backend keeps its memory until it is closed.
        """
        more = self._cache_bytes * (capacity - self.capacity) // self._largest
        if not self.backend.frees_memory or more > self._monitor.room_bytes():
            return
        self._unbind()  # before there is more
        _return_free_memory()
        self._bind(capacity)

    def measure_activations(self) -> None:
        """Note, after the first frame, what has come beside engines and cache."""
        if "activations" not in self._measured:
            self._note("activations", max(self.backend.held_bytes - self._held_bytes - self._cache_bytes, 0))

    def close(self) -> None:
        """Release engines, cache and buffers."""
        self._unbind()  # what is bound holds on to the engines' memory too
        self._opened.close()
        _return_free_memory()

    def _load_engines(self, bundle: Bundle, stack: ExitStack) -> _Engines:
        components = bundle.manifest.components
        progress.begin("loading its engines", sum(file.size_bytes for part in components for file in part.files))

        def load(component: Component) -> Engine:
            self._monitor.check_room(component.name, loading_bytes(self._manifest, component))
            before = self.backend.held_bytes
            engine = self.backend.load(bundle.file(component.files[0]))
            stack.callback(engine.close)
            added = max(self.backend.held_bytes - before, 0)
            self._note(component.role, self._measured.get(component.role, 0) + added)
            progress.advance(sum(file.size_bytes for file in component.files))
            return engine

        manifest = bundle.manifest
        return _Engines(
            vision=load(manifest.component("vision_encoder")),
            connector=load(manifest.component("connector")),
            heads=[load(head) for head in manifest.lm_heads],  # takes twice its size for a moment, so before the rest
            groups=[load(group) for group in manifest.decoder_groups],
            embedding=open_embedding(bundle),
        )

    def _bind(self, capacity: int) -> None:
        manifest, engines = self._manifest, self._engines
        self.capacity = capacity
        for name in _GROWING:
            self._note(name, self._memory_plan.item(name).planned_bytes * capacity // self._largest)
        self.decoder = Decoder(
            self.backend, manifest, engines.embedding, engines.groups, engines.heads, self._prefix, capacity
        )
        self._vision = ImageEncoder(self.backend, manifest, engines.vision, engines.connector, self.decoder)

    def _unbind(self) -> None:
        for name in ("decoder", "_vision"):
            vars(self).pop(name, None)

    @property
    def _cache_bytes(self) -> int:
        """Of the largest cache, and the rows that are as many."""
        return sum(self._memory_plan.item(name).planned_bytes for name in _GROWING)

    def _note(self, name: str, size_bytes: int) -> None:
        self._measured = {**self._measured, name: size_bytes}  # anew: another thread may read the old one


@dataclass(frozen=True)
class _Engines:
    vision: Engine
    connector: Engine
    heads: list[Engine]
    groups: list[Engine]
    embedding: Embedding


def _return_free_memory() -> None:
    """Give back what the C library keeps for later: of 750 MB, closing alone returned 40, this 650."""
    with suppress(AttributeError, OSError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
