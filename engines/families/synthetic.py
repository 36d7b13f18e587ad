"""Checkpoints that exist nowhere: random weights at a real model's shape, made tensor by tensor when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.checkpoint import Checkpoint
from engines.families.internvl import internvl_parameters, read_internvl_config
from engines.families.llava import DEFAULT_PROMPT, Layout, LlavaConfig, checkpoint_parameters, read_config
from engines.families.llava_next import read_next_config
from engines.families.mllama import mllama_parameters, read_mllama_config
from engines.families.qwen2_5_vl import read_qwen2_5_vl_config, window_merger
from engines.families.qwen3_vl import qwen_parameters, read_qwen3_vl_config
from engines.families.smolvlm import read_smolvlm_config, smolvlm_parameters
from engines.layers.decoder import LlamaConfig
from engines.layers.native_tower import NativeVitConfig, PatchMerger
from engines.layers.parameters import Parameter
from engines.quantized_checkpoint import load_any_checkpoint

_PREFIX = "synthetic:"
_VERSION = 1  # to be raised when the same name begins to give other numbers
_SLAB_WORDS = 1 << 20  # 64-bit random words at a time: 4 values each


def _llava_15(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "image_token_index": 32000,
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        "text_config": {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32064,
        },
    }


def _llava_16(text_config: dict[str, Any]) -> dict[str, Any]:
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    model = {"model_type": "llava_next", "text_config": text_config, "image_grid_pinpoints": grids}
    return {**_llava_15(4096, 14336, 32, 32), **model}


def _qwen3_vl(vision: dict[str, Any], text: dict[str, Any], *, is_tied: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    decoder = {"vocab_size": 151936, "head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 262144}
    settings = {"model_type": "qwen3_vl_text", "rope_theta": 5000000.0, "rope_scaling": rope, "bos_token_id": 1}
    return {
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "tie_word_embeddings": is_tied,
        "vision_config": {"model_type": "qwen3_vl", "out_hidden_size": text["hidden_size"], **vision},
        "text_config": {**settings, "eos_token_id": 2, **decoder, **text},
    }


def _qwen_vision(width: int, inner: int, layers: int, taps: list[int]) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "depth": layers, "num_heads": 16}
    return {**sizes, "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": taps}


def _sizes(width: int, inner: int, layers: int, heads: int, kv_heads: int | None = None) -> dict[str, Any]:
    sizes = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return sizes if kv_heads is None else {**sizes, "num_key_value_heads": kv_heads}


def _smolvlm(vision: dict[str, Any], text: dict[str, Any], scale_factor: int) -> dict[str, Any]:
    decoder = {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "vocab_size": 49280, "head_dim": 64}
    return {
        "model_type": "smolvlm",
        "image_token_id": 49190,
        "scale_factor": scale_factor,
        "vision_config": {"model_type": "smolvlm_vision", **vision},
        "text_config": {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, **decoder, **text},
    }


_SIGLIP_512 = {**_sizes(768, 3072, 12, 12), "image_size": 512, "patch_size": 16}


def _internvl(image_token_id: int, text: dict[str, Any]) -> dict[str, Any]:
    vision = {**_sizes(1024, 4096, 24, 16), "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
    decoder = {"rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "model_type": "internvl",
        "image_token_id": image_token_id,
        "downsample_ratio": 0.5,
        "vision_config": {"model_type": "internvl_vision", **vision},
        "text_config": {**decoder, **text},
    }


def _internvl_3(*sizes: int) -> dict[str, Any]:
    rope = {"type": "dynamic", "factor": 2.0}
    qwen2 = {"model_type": "qwen2", "vocab_size": 151674, "max_position_embeddings": 32768, "rope_scaling": rope}
    return _internvl(151667, {**_sizes(*sizes), **qwen2})


def _internvl_35(*sizes: int) -> dict[str, Any]:
    qwen3 = {"model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960, "head_dim": 128}
    return _internvl(151671, {**_sizes(*sizes), **qwen3})


def _tiny_internvl(**text: Any) -> dict[str, Any]:
    decoder = {**_sizes(96, 160, 4, 4, 2), "vocab_size": 600, "max_position_embeddings": 1024, "head_dim": 32}
    config = _internvl(300, {**decoder, **text})
    vision = {**_sizes(64, 96, 3, 4), "image_size": [56, 56], "patch_size": [14, 14]}
    return {**config, "image_seq_length": 4, "vision_config": {**config["vision_config"], **vision}}


def _qwen2_5_vl(vision: dict[str, Any], text: dict[str, Any], *, is_tied: bool) -> dict[str, Any]:
    sizes = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "patch_size": 14}
    windows = {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    decoder = {"rms_norm_eps": 1e-6, "max_position_embeddings": 128000, "rope_theta": 1000000.0}
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    settings = {"model_type": "qwen2_5_vl_text", "bos_token_id": 1, "eos_token_id": 2, "use_sliding_window": False}
    tower = {"model_type": "qwen2_5_vl", "out_hidden_size": text["hidden_size"]}
    return {
        "model_type": "qwen2_5_vl",
        "image_token_id": 151655,
        "tie_word_embeddings": is_tied,
        "vision_config": {**tower, **sizes, **windows, **vision},
        "text_config": {**settings, **rope, **decoder, **text},
    }


_QWEN_300M = _qwen_vision(1024, 4096, 24, [5, 11, 17])

# Small, and awkward on purpose: widths that differ, grouped queries, an inner width of 3 x 64, an odd patch.
_TINY: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 300,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "vocab_size": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "image_seq_length": 16,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}

SYNTHETIC_CONFIGS: Mapping[str, dict[str, Any]] = {
    "llava-1.5-7b": _llava_15(4096, 11008, 32, 32),
    "llava-1.5-13b": _llava_15(5120, 13824, 40, 40),
    "llava-1.6-mistral-7b": _llava_16(
        {
            "model_type": "mistral",
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 32064,
        }
    ),
    "llava-1.6-vicuna-7b": _llava_16(
        {
            "model_type": "llama",
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32064,
        }
    ),
    "smolvlm2-2.2b": _smolvlm(
        {**_sizes(1152, 4304, 27, 16), "image_size": 384, "patch_size": 14},
        {**_sizes(2048, 8192, 24, 32, 32), "rope_theta": 130000.0},
        3,
    ),
    "smolvlm2-500m": _smolvlm(_SIGLIP_512, {**_sizes(960, 2560, 32, 15, 5), "rope_theta": 100000.0}, 4),
    "smolvlm2-256m": _smolvlm(_SIGLIP_512, {**_sizes(576, 1536, 30, 9, 3), "rope_theta": 100000.0}, 4),
    "internvl3-1b": _internvl_3(896, 4864, 24, 14, 2),
    "internvl3-2b": _internvl_3(1536, 8960, 28, 12, 2),
    "internvl3-8b": _internvl_3(3584, 18944, 28, 28, 4),
    "internvl3.5-1b": _internvl_35(1024, 3072, 28, 16, 8),
    "internvl3.5-2b": _internvl_35(2048, 6144, 28, 16, 8),
    "internvl3.5-4b": _internvl_35(2560, 9728, 36, 32, 8),
    "internvl3.5-8b": _internvl_35(4096, 12288, 36, 32, 8),
    "qwen3-vl-2b": _qwen3_vl(_QWEN_300M, _sizes(2048, 6144, 28, 16, 8), is_tied=True),
    "qwen3-vl-4b": _qwen3_vl(_QWEN_300M, _sizes(2560, 9728, 36, 32, 8), is_tied=True),
    "qwen3-vl-8b": _qwen3_vl(_qwen_vision(1152, 4304, 27, [8, 16, 24]), _sizes(4096, 12288, 36, 32, 8), is_tied=False),
    "qwen2.5-vl-3b": _qwen2_5_vl({}, {**_sizes(2048, 11008, 36, 16, 2), "vocab_size": 151936}, is_tied=True),
    "qwen2.5-vl-7b": _qwen2_5_vl({}, {**_sizes(3584, 18944, 28, 28, 4), "vocab_size": 152064}, is_tied=False),
    # This one can be planned, and not built.
    "llama-3.2-vision-11b": {
        "model_type": "mllama",
        "image_token_index": 128255,  # the real one is 128256, beyond the vocabulary of its head
        "text_config": {"model_type": "mllama_text_model", "bos_token_id": 1, "eos_token_id": 2},
        "vision_config": {"model_type": "mllama_vision_model", "image_size": 560},
    },
    "tiny-llava": _TINY,
    "tiny-qwen3-vl": {
        **_qwen3_vl(
            {**_qwen_vision(64, 96, 4, [0, 2, 3]), "num_heads": 4, "patch_size": 8, "num_position_embeddings": 64},
            {
                **_sizes(128, 192, 5, 4, 2),
                "head_dim": 48,
                "vocab_size": 512,
                "max_position_embeddings": 1024,
                "rope_theta": 5000.0,
                "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [8, 8, 8]},
            },
            is_tied=True,
        ),
        "image_token_id": 300,
    },
    "tiny-qwen2.5-vl": {
        **_qwen2_5_vl(
            {
                "hidden_size": 64,
                "intermediate_size": 96,
                "depth": 4,
                "num_heads": 4,
                "patch_size": 8,
                "window_size": 32,
                "fullatt_block_indexes": [1, 3],
            },
            {
                **_sizes(128, 192, 4, 4, 2),
                "vocab_size": 512,
                "max_position_embeddings": 1024,
                "rope_theta": 5000.0,
                "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            },
            is_tied=False,
        ),
        "image_token_id": 300,
    },
    "tiny-llava-next": {
        **_TINY,
        "model_type": "llava_next",
        "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]],
        "text_config": {**_TINY["text_config"], "model_type": "mistral", "sliding_window": None},
    },
    "tiny-smolvlm": {
        **_smolvlm(
            {**_sizes(64, 96, 3, 4), "image_size": 56, "patch_size": 14},
            {**_sizes(192, 320, 4, 6, 2), "head_dim": 32, "max_position_embeddings": 1024, "vocab_size": 600},
            2,
        ),
        "image_token_id": 300,
    },
    "tiny-internvl": _tiny_internvl(model_type="qwen2", rope_scaling={"type": "dynamic", "factor": 2.0}),
    "tiny-internvl-qwen3": _tiny_internvl(model_type="qwen3", head_dim=48),
}


@dataclass(frozen=True)
class SyntheticCheckpoint:
    """Random float16 weights in the hub's layout; the same name always gives the same numbers."""

    name: str
    config: Mapping[str, Any]
    image_processor: Mapping[str, Any]
    tokenizer_json: bytes
    _parameters: Mapping[str, Parameter] = field(repr=False)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    prompt: Mapping[str, str] | None = None

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._parameters[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Float16, whichever it is."""
        return np.dtype("<f2")

    def tensor(self, name: str) -> NDArray[np.float16]:
        """Uniform numbers around 1 for norms and around 0 for the rest, wide enough to keep hidden states' size."""
        parameter = self._parameters[name]
        columns = int(np.prod(parameter.shape[1:]))
        spread = columns**-0.5 if parameter.is_matrix else 0.1
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return _uniform(f"{_VERSION} {self.name} {name}", parameter.shape, centre, spread)

    def sha256(self) -> str:
        """A hash of what determines every number."""
        settings = json.dumps([_VERSION, self.name, self.config, self.image_processor], sort_keys=True)
        return hashlib.sha256(settings.encode() + self.tokenizer_json).hexdigest()


def synthetic_checkpoint(name: str, config: Mapping[str, Any]) -> SyntheticCheckpoint:
    """Random weights for the architecture that ``config`` describes; ``name`` seeds them.

    Raises:
        CheckpointError: the architecture is not supported.
    """
    shape = _SHAPES[config["model_type"]](config)
    side = shape.image_size
    return SyntheticCheckpoint(
        name=name,
        config=config,
        image_processor=shape.image_processor
        or {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "resample": 3},
        tokenizer_json=_byte_tokenizer(shape.vocab_size, shape.image_token_id, shape.tags),
        prompt={"before_image": DEFAULT_PROMPT.before_image, "after_image": DEFAULT_PROMPT.after_image},
        _parameters=shape.parameters,
    )


@dataclass(frozen=True)
class _Shape:
    """What a checkpoint of an architecture consists of."""

    image_size: int
    vocab_size: int
    image_token_id: int
    parameters: Mapping[str, Parameter]
    image_processor: Mapping[str, Any] = field(default_factory=dict)  # empty: CLIP's
    tags: tuple[str, ...] = ()  # what stands around tiles


def _smolvlm_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_smolvlm_config(values, {})
    side, statistics = config.vit.image_size, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    edges = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tags = ("<fake_token_around_image>", "<global-img>", *places)
    processor = {**edges, "do_image_splitting": True, "resample": 1, **statistics}
    vocab_size = config.llama.vocab_size
    return _Shape(side, vocab_size, config.image_token_id, smolvlm_parameters(config), processor, tags)


def _internvl_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_internvl_config(values, {})
    side, vocab_size = config.vit.image_size, config.llama.vocab_size
    statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = {"size": {"height": side, "width": side}, "max_patches": 12, "resample": 3, **statistics}
    parameters = internvl_parameters(config)
    return _Shape(side, vocab_size, config.image_token_id, parameters, processor, ("<img>", "</img>"))


def _qwen3_vl_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_qwen3_vl_config(values, {})
    return _qwen_shape(values, config.vit, PatchMerger("merger.", config.vit), config.llama)


def _qwen2_5_vl_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_qwen2_5_vl_config(values, {})
    return _qwen_shape(values, config.vit, window_merger(config.vit), config.llama)


def _qwen_shape(values: Mapping[str, Any], vit: NativeVitConfig, merger: PatchMerger, llama: LlamaConfig) -> _Shape:
    patch, statistics = vit.patch_size, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    # As Qwen's, in pixels; but no image of the tiny one takes more than a quarter of its positions.
    size = {"shortest_edge": 256 * patch**2, "longest_edge": min(65536, llama.max_positions) * patch**2}
    sizes = {"size": size, "patch_size": patch, "temporal_patch_size": vit.frames, "merge_size": 2}
    parameters = qwen_parameters(vit, merger, llama, is_tied=bool(values.get("tie_word_embeddings")))
    processor = {"image_processor_type": "Qwen2VLImageProcessorFast", **sizes, "resample": 3, **statistics}
    return _Shape(patch, llama.vocab_size, int(values["image_token_id"]), parameters, processor)


def _llava_shape(config: LlavaConfig, *more: tuple[str, Parameter]) -> _Shape:
    parameters = {**checkpoint_parameters(config, Layout()), **dict(more)}
    return _Shape(config.vit.image_size, config.llama.vocab_size, config.image_token_id, parameters)


def _llava_next_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_next_config(values, {})
    return _llava_shape(config, ("image_newline", Parameter((config.llama.hidden_size,))))


def _mllama_shape(values: Mapping[str, Any]) -> _Shape:
    config = read_mllama_config(values, {})
    return _Shape(config.image_size, config.llama.vocab_size, config.image_token_id, mllama_parameters(config))


_SHAPES: Mapping[str, Callable[[Mapping[str, Any]], _Shape]] = {
    "llava": lambda config: _llava_shape(read_config(config, {})),
    "llava_next": _llava_next_shape,
    "mllama": _mllama_shape,
    "smolvlm": _smolvlm_shape,
    "internvl": _internvl_shape,
    "qwen2_5_vl": _qwen2_5_vl_shape,
    "qwen3_vl": _qwen3_vl_shape,
}


def open_checkpoint(where: str) -> Checkpoint:
    """The checkpoint in a directory, or the one called ``synthetic:NAME``.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not where.startswith(_PREFIX):
        return load_any_checkpoint(Path(where))
    name = where.removeprefix(_PREFIX)
    if name not in SYNTHETIC_CONFIGS:
        raise CheckpointError(f"there is no {where}; there are {', '.join(_PREFIX + n for n in SYNTHETIC_CONFIGS)}")
    return synthetic_checkpoint(name, SYNTHETIC_CONFIGS[name])


def _uniform(key: str, shape: tuple[int, ...], centre: float, deviation: float) -> NDArray[np.float16]:
    """Uniform numbers from the bits of a generator seeded by ``key``.

    Raw bits of a bit generator never change between numpy's versions; its distributions may.
    """
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest(), "little"))
    values = np.empty(int(np.prod(shape)), np.float16)
    for start in range(0, values.size, 4 * _SLAB_WORDS):
        part = values[start : start + 4 * _SLAB_WORDS]
        words = bits.random_raw(-(-part.size // 4)).view(np.uint16)[: part.size]
        part[:] = (words.astype(np.float32) / 65536 - 0.5) * np.float32(deviation * 12**0.5) + np.float32(centre)
    return values.reshape(shape)


def _byte_tokenizer(vocab_size: int, image_token_id: int, tags: Sequence[str] = ()) -> bytes:
    """A tokenizer of single bytes, in the form of the ``tokenizers`` library; ids left over are words nobody writes.

    The ``tags`` have the ids before the image's.
    """
    specials = {0: "<unk>", 1: "<s>", 2: "</s>", image_token_id: "<image>"}
    specials.update(enumerate(tags, start=image_token_id - len(tags)))
    free = (token for token in range(vocab_size) if token not in specials)
    vocabulary = {byte: next(free) for byte in _byte_symbols()}
    vocabulary.update((f"<unused{token}>", token) for token in free)
    vocabulary.update((text, token) for token, text in specials.items())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        "version": "1.0",
        "added_tokens": [{"id": token, "content": text, **plain} for token, text in sorted(specials.items())],
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return json.dumps(document).encode()


def _byte_symbols() -> list[str]:
    """The printable characters by which GPT-2's byte-level tokenizers write the bytes 0 to 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
