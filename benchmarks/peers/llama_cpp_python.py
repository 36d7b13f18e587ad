"""llama.cpp by its Python package, as it was compiled: weights mapped, or packed anew, as it likes."""

from __future__ import annotations

from pathlib import Path

from llama_cpp import Llama

from benchmarks.peers.measure import CONTEXT, Peer, WholePeer
from benchmarks.peers.shapes import llama_of


class _LlamaCpp(WholePeer):
    runs_forced_at_once = False  # its grammars filter what is sampled, a token at a time

    def __init__(self, path: Path, embedding_bytes: int, threads: int) -> None:
        self._llama = Llama(
            str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False
        )
        self.weight_bytes = path.stat().st_size - embedding_bytes

    def prefill(self, tokens: list[int]) -> None:
        self._llama.reset()
        self._llama.eval(tokens)

    def append(self, tokens: list[int]) -> None:
        self._llama.eval(tokens)


def open_peer(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """The GGUF file ``files``."""
    llama = llama_of(model, layers)
    return _LlamaCpp(files, llama.vocab_size * llama.hidden_size * 18 // 32, threads)
