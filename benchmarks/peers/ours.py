"""A bundle, loaded as the inspector loads it, and its decoder called directly."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.peers.measure import CONTEXT, Peer, WholePeer
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.loaded_bundle import LoadedBundle
from edge_runtime.memory.monitor import ResourceMonitor, limits_of
from edge_runtime.memory.plan import plan_memory
from edge_runtime.memory.telemetry import total_bytes


class _Bundle(WholePeer):
    def __init__(self, path: Path, threads: int) -> None:
        bundle = load_bundle(path)
        monitor = ResourceMonitor(limits_of(total_bytes()))
        memory_plan = monitor.admit(plan_memory(bundle.manifest, CONTEXT), None)
        self._loaded = LoadedBundle(bundle, memory_plan, monitor, threads, (), CONTEXT)
        parts = (*bundle.manifest.decoder_groups, *bundle.manifest.lm_heads)
        self.weight_bytes = sum(part.size_bytes for part in parts)
        encoder = bundle.manifest.component("vision_encoder")
        self.see = partial(
            self._loaded.encode_image, np.zeros(encoder.inputs[0].shape, np.float32)
        )  # looked at, and forgotten

    def prefill(self, tokens: list[int]) -> None:
        self._loaded.decoder.forget()
        self._loaded.decoder.append(tokens)

    def append(self, tokens: list[int]) -> None:
        self._loaded.decoder.append(tokens)


def open_peer(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """The bundle in the directory ``files``."""
    return _Bundle(files, threads)
