"""The same checkpoint executed by ``transformers`` in float32; the only file here that imports it, when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError, MissingDependencyError
from edge_runtime.language.tokenizer import PromptTokens
from edge_runtime.vision.image_processors import ImageLayout
from engines.evaluation.fidelity import Trace


class Tracer(Protocol):
    """Traces pixel tensors (N, 3, H, W) through greedy decoding; ``layout`` is that of their frame."""

    def __call__(self, pixels: NDArray[np.float32], max_tokens: int, layout: ImageLayout) -> Trace:
        """What the model made of them."""


def open_transformers(checkpoint: Path, prompt: PromptTokens, eos_token_ids: Sequence[int]) -> Tracer:
    """Load a model's directory; the result traces pixels through greedy decoding of so many tokens.

    Decoding ends after an end-of-sequence token.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the directory.
    """
    try:
        import torch
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError(
            "transformers and torch are not installed; pip install '.[parity]' in a checkout"
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
    except Exception as error:  # it raises whatever its readers raise
        raise CheckpointError(f"transformers cannot load {checkpoint}: {error}") from error
    see = _VISION.get(model.config.model_type)
    if see is None:
        raise CheckpointError(f"the vision encoder of {checkpoint} ({model.config.model_type}) cannot be compared yet")
    image_token_id = model.config.image_token_id

    def trace(pixels: NDArray[np.float32], max_tokens: int, layout: ImageLayout) -> Trace:
        with torch.inference_mode():
            features, images = see(torch, model, torch.from_numpy(pixels), layout)
            packed = model.model.get_image_features(**images, return_dict=True).pooler_output
            shown = torch.cat(list(packed)) if isinstance(packed, (list, tuple)) else packed
            shown = shown.reshape(-1, shown.shape[-1])
            image = [layout.text.get(place, image_token_id) for place in range(len(shown) + len(layout.text))]
            embeddings = model.get_input_embeddings()(torch.tensor(image))
            embeddings[[place not in layout.text for place in range(len(image))]] = shown
            head = [*prompt.before_image, *image, *prompt.after_image]
            inputs = {"input_ids": torch.tensor([head]), **images}
            if "image_grid_thw" in images:  # places in time, height and width are counted by what a token is of
                inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token_id).int()
            logits: list[NDArray[np.float32]] = []
            tokens: list[int] = []
            past = None
            while len(tokens) < max_tokens and not set(tokens) & set(eos_token_ids):
                step = model(**inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
                past = step.past_key_values
                logits.append(step.logits[0, -1].numpy())
                tokens.append(int(logits[-1].argmax()))
                inputs = {"input_ids": torch.tensor([tokens[-1:]])}
        flat = features.reshape(-1, features.shape[-1])
        return Trace(flat.numpy(), embeddings.numpy(), np.stack(logits), tuple(tokens))

    return trace


def _see_llava(torch: Any, model: Any, tensors: Any, layout: ImageLayout) -> tuple[Any, dict[str, Any]]:
    config = model.config
    seen = model.model.vision_tower(tensors, output_hidden_states=True)
    chosen = config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else chosen
    features = torch.cat([seen.hidden_states[layer] for layer in layers], dim=-1)
    if config.vision_feature_select_strategy == "default":
        features = features[:, 1:]
    if layout.grid is None:
        return features, {"pixel_values": tensors}
    return features, {"pixel_values": tensors[None], "image_sizes": torch.tensor([layout.frame_size])}


def _see_smolvlm(torch: Any, model: Any, tensors: Any, layout: ImageLayout) -> tuple[Any, dict[str, Any]]:
    return model.model.vision_model(tensors).last_hidden_state, {"pixel_values": tensors[None]}


def _see_internvl(torch: Any, model: Any, tensors: Any, layout: ImageLayout) -> tuple[Any, dict[str, Any]]:
    return model.model.vision_tower(tensors).last_hidden_state[:, 1:], {"pixel_values": tensors}


def see_qwen(torch: Any, model: Any, tensors: Any, layout: ImageLayout) -> tuple[Any, dict[str, Any]]:
    """A still, which stands for all frames of a patch: (1, P, 3 h w) to (P, 3 * frames * h w)."""
    config = model.config.vision_config
    channels = tensors[0].reshape(tensors.shape[1], 3, 1, -1).expand(-1, -1, config.temporal_patch_size, -1)
    rows, columns = (n * config.spatial_merge_size for n in layout.grid or (0, 0))
    patches, grid = channels.reshape(tensors.shape[1], -1), torch.tensor([[1, rows, columns]])
    features = model.model.visual(patches, grid_thw=grid).last_hidden_state
    if hasattr(config, "window_size"):  # then they come one window after another
        side = config.window_size // config.spatial_merge_size // config.patch_size
        tokens = torch.arange(rows * columns // config.spatial_merge_size**2)
        windows = tokens.reshape((layout.grid or (0, 0))[0] // side, side, -1, side).transpose(1, 2).reshape(-1)
        features = features.reshape(len(tokens), -1)[torch.argsort(windows)].reshape(len(patches), -1)
    return features, {"pixel_values": patches, "image_grid_thw": grid}


# What each family's vision encoder puts out, and what the model calls a frame's tensors.
_VISION: Mapping[str, Callable[[Any, Any, Any, ImageLayout], tuple[Any, dict[str, Any]]]] = {
    "llava": _see_llava,
    "llava_next": _see_llava,
    "smolvlm": _see_smolvlm,
    "idefics3": _see_smolvlm,
    "internvl": _see_internvl,
    "qwen2_5_vl": see_qwen,
    "qwen3_vl": see_qwen,
}
