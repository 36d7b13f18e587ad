"""Checkpoints for tests: directories as transformers writes them, from numbers that are the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.checkpoint import Checkpoint
from engines.families.synthetic import SYNTHETIC_CONFIGS, SyntheticCheckpoint, synthetic_checkpoint

TINY = SYNTHETIC_CONFIGS["tiny-llava"]
DTYPE_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}
DTYPE_NAMES |= {"int64": "I64", "int32": "I32", "int8": "I8", "uint8": "U8"}


def changed(config: Mapping[str, Any], text: Mapping[str, Any] = {}, **top: Any) -> dict[str, Any]:
    """A copy of a configuration with other settings."""
    return {**config, "text_config": {**config["text_config"], **text}, **top}


def newer_name(name: str) -> str | None:
    """The tensor's name in the layout that transformers uses since 4.52; None for a tied head."""
    if name == "language_model.lm_head.weight":
        return None
    name = name.replace("vision_tower.vision_model.", "vision_tower.")
    return "model." + name.replace("language_model.model.", "language_model.")


def tiny_variant() -> SyntheticCheckpoint:
    """Unlike ``synthetic:tiny-llava`` in every setting that changes the computation."""
    vision = {**TINY["vision_config"], "hidden_act": "gelu", "image_size": 60, "num_hidden_layers": 2}
    text = {"num_key_value_heads": 4, "head_dim": 16, "rope_parameters": {"rope_theta": 900.0, "rope_type": "default"}}
    config = changed(
        TINY,
        {**text, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        vision_config=vision,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=17,
        tie_word_embeddings=True,
    )
    return synthetic_checkpoint("tiny-variant", config)


def tiny_modern() -> SyntheticCheckpoint:
    """A decoder as newer families have it: normalized queries and keys, heads apart from the width, scaled positions.

    Its vision tower gives the features of two layers, side by side.
    """
    rope = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    text = {
        "model_type": "qwen3",
        "head_dim": 48,
        "tie_word_embeddings": True,
        "rope_parameters": {**rope, "original_max_position_embeddings": 64, "rope_theta": 900.0},
    }
    config = changed(TINY, text, vision_feature_layer=[-1, 2], tie_word_embeddings=True)
    return synthetic_checkpoint("tiny-modern", config)


class LoudCheckpoint:
    """The tiny checkpoint with one perceptron whose inner activations float16 cannot hold, and its outputs can."""

    def __init__(self, kind: str) -> None:
        self._tiny = synthetic_checkpoint("tiny-llava", TINY)
        self._factors = {
            "vision_encoder": {"layers.0.mlp.fc1.weight": 3e4, "layers.0.mlp.fc2.weight": 3e-5},
            "decoder": {"layers.1.mlp.up_proj.weight": 3e4, "layers.1.mlp.down_proj.weight": 3e-5},
        }[kind]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tiny, name)

    def __contains__(self, name: object) -> bool:
        return name in self._tiny

    def __iter__(self) -> Iterator[str]:
        return iter(self._tiny)

    def tensor(self, name: str) -> NDArray[Any]:
        tensor = self._tiny.tensor(name)
        factors = [factor for ending, factor in self._factors.items() if name.endswith(ending)]
        return (tensor.astype(np.float32) * factors[0]).astype(np.float16) if factors else tensor


def write_checkpoint(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    shards: int = 1,
    rename: Callable[[str], str | None] = lambda name: name,
    convert: Callable[[NDArray[Any]], NDArray[Any]] = lambda tensor: tensor,
) -> Path:
    """Write a checkpoint's directory; ``rename`` may give a tensor another name, or None to leave it out."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(checkpoint.config))
    (directory / "preprocessor_config.json").write_text(json.dumps(checkpoint.image_processor))
    (directory / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
    named = {new: name for name in checkpoint if (new := rename(name)) is not None}
    tensors = {new: convert(checkpoint.tensor(name)) for new, name in named.items()}
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return directory
    weight_map = {name: f"model-{i % shards + 1:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        write_safetensors(directory / file, {name: tensors[name] for name in tensors if weight_map[name] == file})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors in the safetensors format."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        entry = {"dtype": DTYPE_NAMES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [offset, end]}
        header[name] = entry
        offset = end
    write_safetensors_header(path, header, b"".join(np.ascontiguousarray(t).tobytes() for t in tensors.values()))


def write_safetensors_header(path: Path, header: Any, data: bytes) -> None:
    """Write a safetensors file with whatever header."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
