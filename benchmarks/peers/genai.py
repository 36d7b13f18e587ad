"""onnxruntime-genai by its Python package. Its guidance can take forced tokens at once (``enable_ff_tokens``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from benchmarks.peers.genai_model import GRAPH, embedding_bytes
from benchmarks.peers.measure import CONTEXT, Peer, WholePeer
from benchmarks.peers.shapes import llama_of


class _GenAi(WholePeer):
    def __init__(self, directory: Path, unread_bytes: int, threads: int) -> None:
        config = og.Config(str(directory))
        config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}')
        self._model = og.Model(config)
        self._parameters = og.GeneratorParams(self._model)
        self._parameters.set_search_options(max_length=CONTEXT)
        self._generator = og.Generator(self._model, self._parameters)
        self.weight_bytes = (directory / f"{GRAPH}.data").stat().st_size - unread_bytes

    def prefill(self, tokens: list[int]) -> None:
        self._generator = og.Generator(self._model, self._parameters)
        self.append(tokens)

    def append(self, tokens: list[int]) -> None:
        self._generator.append_tokens(np.array([tokens], np.int32))


def open_peer(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """The model in the directory ``files``."""
    return _GenAi(files, embedding_bytes(llama_of(model, layers)), threads)
