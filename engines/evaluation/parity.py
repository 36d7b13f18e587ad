"""The same checkpoint executed by ``transformers`` in float32; the only file here that imports it, when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError, MissingDependencyError
from edge_runtime.language.tokenizer import PromptTokens
from engines.evaluation.fidelity import Trace

Tracer = Callable[[NDArray[np.float32], int], Trace]


def open_transformers(checkpoint: Path, prompt: PromptTokens, eos_token_ids: Sequence[int]) -> Tracer:
    """Load a LLaVA directory; the result traces pixels (1, 3, H, W) through greedy decoding of so many tokens.

    Decoding ends after an end-of-sequence token.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the directory.
    """
    try:
        import torch
        from transformers import LlavaForConditionalGeneration
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError(
            "transformers and torch are not installed; pip install 'edge-runtime[parity]'"
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model: Any = LlavaForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
    except Exception as error:  # it raises whatever its readers raise
        raise CheckpointError(f"transformers cannot load {checkpoint}: {error}") from error
    config = model.config
    head = [*prompt.before_image, *[config.image_token_id] * config.image_seq_length, *prompt.after_image]

    def trace(pixels: NDArray[np.float32], max_tokens: int) -> Trace:
        with torch.inference_mode():
            pixel_values = torch.from_numpy(pixels)
            seen = model.model.vision_tower(pixel_values, output_hidden_states=True)
            features = seen.hidden_states[config.vision_feature_layer]
            if config.vision_feature_select_strategy == "default":
                features = features[:, 1:]
            embeddings = model.model.multi_modal_projector(features)
            inputs = {"input_ids": torch.tensor([head]), "pixel_values": pixel_values}
            logits: list[NDArray[np.float32]] = []
            tokens: list[int] = []
            past = None
            while len(tokens) < max_tokens and not set(tokens) & set(eos_token_ids):
                step = model(**inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
                past = step.past_key_values
                logits.append(step.logits[0, -1].numpy())
                tokens.append(int(logits[-1].argmax()))
                inputs = {"input_ids": torch.tensor([tokens[-1:]])}
        return Trace(features[0].numpy(), embeddings[0].numpy(), np.stack(logits), tuple(tokens))

    return trace
