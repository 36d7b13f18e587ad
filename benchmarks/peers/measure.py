"""Loads one peer in this process and times it; prints one line of JSON. ``benchmarks.bench_peers`` starts these.

    python -m benchmarks.peers.measure PEER FILES MODEL LAYERS THREADS STEPS

A token takes the median of a few, and an image too, after one that is not counted; loading, prompts and an answer are
timed once, prompts after tokens have warmed up. All peers get the same token ids, and put out the logits of the last
token only. STEPS are numbers of tokens, as ``3,1,2``: those that come at a time in an answer.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

CONTEXT = 1280  # positions that a peer reserves: an image and the longest prompt
PROMPTS = (128, 640)  # tokens of the prompts that are timed
TOKENS = 12  # decoded behind each, one at a time
_TOKEN = 7
PEERS = {  # modules of this package, and what opens the peer
    "edge-runtime": ("ours", "open_peer"),
    "llama.cpp": ("llama_cpp_python", "open_peer"),
    "onnxruntime-genai": ("genai", "open_peer"),
    "transformers bfloat16": ("torch_llama", "open_bfloat16"),
    "transformers float32": ("torch_llama", "open_float32"),
}


@dataclass(frozen=True)
class Figures:
    """Seconds, and the weights that a token reads; what a peer does not do is missing."""

    load_s: float
    prefill_s: dict[int, float]  # by tokens of the prompt
    token_s: dict[int, float]  # by tokens before it
    answer_s: float  # all its steps, behind the longest prompt
    weight_bytes: int
    see_s: float | None
    scaled: bool  # measured on fewer layers, and calculated for all


class Peer(Protocol):
    """A decoder, loaded."""

    weight_bytes: int
    see: Callable[[], object] | None  # runs the vision encoder on one image
    scaled: bool
    runs_forced_at_once: bool  # its own constrained decoding takes tokens that a grammar forces in one step

    def prefill(self, tokens: list[int]) -> None:
        """Forget everything; run ``tokens``; return when the logits behind them are there."""

    def append(self, tokens: list[int]) -> None:
        """Run tokens more; return when the logits behind them are there."""

    def timed(self, call: Callable[[], None]) -> float:
        """Seconds of ``call``, of all layers."""


class WholePeer:
    """A peer with all layers: what is timed is what it took."""

    see: Callable[[], object] | None = None
    scaled = False
    runs_forced_at_once = True

    def timed(self, call: Callable[[], None]) -> float:
        """Seconds on the clock."""
        return clocked(call)


def clocked(call: Callable[[], object]) -> float:
    """Seconds on the clock."""
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def figures_of(load: Callable[[], Peer], steps: Sequence[int]) -> Figures:
    """Load a peer and time everything that it does."""
    started_s = time.perf_counter()
    peer = load()
    load_s = time.perf_counter() - started_s
    token_s = {1: _token_s(peer, 1)}  # also what warms up
    prefill_s = {}
    for length in PROMPTS:
        prefill_s[length] = peer.timed(lambda: peer.prefill([_TOKEN] * length))  # noqa: B023  called at once
    token_s[PROMPTS[-1]] = _token_s(peer, PROMPTS[-1], is_read=True)
    answer_s = _answer_s(peer, steps if peer.runs_forced_at_once else [1] * sum(steps))
    see_s = None
    if peer.see:
        peer.see()
        see_s = median(clocked(peer.see) for _ in range(3))
    return Figures(load_s, prefill_s, token_s, answer_s, peer.weight_bytes, see_s, peer.scaled)


def _token_s(peer: Peer, before: int, is_read: bool = False) -> float:
    if not is_read:
        peer.prefill([_TOKEN] * before)
    peer.append([_TOKEN])
    return median(peer.timed(lambda: peer.append([_TOKEN])) for _ in range(TOKENS))


def _answer_s(peer: Peer, steps: Sequence[int]) -> float:
    return sum(peer.timed(lambda: peer.append([_TOKEN] * count)) for count in steps)  # noqa: B023  called at once


def main() -> int:
    """Print the figures of one peer."""
    name, files, model, layers, threads, steps = sys.argv[1:]
    module, opener = PEERS[name]
    open_peer = getattr(importlib.import_module(f"benchmarks.peers.{module}"), opener)
    figures = figures_of(
        lambda: open_peer(Path(files), model, int(layers) or None, int(threads)), [*map(int, steps.split(","))]
    )
    print(json.dumps(asdict(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
