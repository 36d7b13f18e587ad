"""``transformers`` on torch in bfloat16 or float32: a few layers, and what all of them would take calculated."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.peers.measure import Peer, clocked
from benchmarks.peers.shapes import llama_of, vision_config_of

_DEPTH = 4  # layers that are run; time grows by as much with every layer more, and 32 in float32 would take 27 GB


class _TorchPeer:
    """Random weights, made in memory."""

    runs_forced_at_once = False  # it has no grammar; those that others add to it choose a token at a time

    def __init__(self, model: str, layers: int | None, threads: int, dtype: torch.dtype) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(dtype)
        sizes = llama_of(model, layers)
        depth = min(_DEPTH, sizes.num_layers)
        config = LlamaConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=depth,
            num_attention_heads=sizes.num_heads,
            num_key_value_heads=sizes.num_kv_heads,
            vocab_size=sizes.vocab_size,
            max_position_embeddings=sizes.max_positions,
        )
        self._llama = LlamaForCausalLM(config).eval()
        self._cache = DynamicCache()
        self._depths_more = sizes.num_layers / depth - 1
        self.scaled = self._depths_more > 0
        layer_bytes = sum(p.nbytes for p in self._llama.model.layers[0].parameters())
        self.weight_bytes = sizes.num_layers * layer_bytes + self._llama.lm_head.weight.nbytes

        vision = CLIPVisionConfig(**vision_config_of(model))
        vision.num_hidden_layers -= 1  # LLaVA does not use what the last one puts out
        tower = CLIPVisionModel(vision).eval()
        pixels = torch.zeros(1, 3, vision.image_size, vision.image_size)
        self.see: Callable[[], object] | None = partial(tower, pixels)

        self._entered_s, self._left_s = 0.0, 0.0  # the layers
        self._llama.model.layers[0].register_forward_pre_hook(self._enter)
        self._llama.model.layers[-1].register_forward_hook(self._leave)

    def prefill(self, tokens: list[int]) -> None:
        self._cache = DynamicCache()
        self.append(tokens)

    def timed(self, call: Callable[[], None]) -> float:
        """Seconds on the clock, and those of the layers that aren't there."""
        return clocked(call) + self._depths_more * (self._left_s - self._entered_s)

    def append(self, tokens: list[int]) -> None:
        self._llama(torch.tensor([tokens]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def _enter(self, *_: Any) -> None:
        self._entered_s = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self._left_s = time.perf_counter()


def open_bfloat16(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """Nothing is read of ``files``."""
    return _TorchPeer(model, layers, threads, torch.bfloat16)


def open_float32(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """Nothing is read of ``files``."""
    return _TorchPeer(model, layers, threads, torch.float32)
