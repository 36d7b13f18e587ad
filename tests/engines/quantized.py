"""Checkpoints as tools that quantize write them, packed number by number as those tools define it; tests nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from engines.checkpoint import Checkpoint
from engines.families.synthetic import open_checkpoint
from tests.engines.checkpoints import write_checkpoint, write_safetensors

GROUP = 32
DECODER = "language_model.model.layers."


@dataclass(frozen=True)
class Rounded:
    """A matrix (N, K) as codes 0 to 15, zero points and scales (N, groups), and the numbers that those stand for."""

    codes: NDArray[np.int64]
    zeros: NDArray[np.int64]
    scales: NDArray[np.float32]

    @property
    def numbers(self) -> NDArray[np.float32]:
        """Float32 (N, K)."""
        group = self.codes.shape[1] // self.scales.shape[1]
        zeros, scales = np.repeat(self.zeros, group, axis=1), np.repeat(self.scales, group, axis=1)
        return (self.codes - zeros).astype(np.float32) * scales


def rounded(weight: NDArray[Any], group: int, *, symmetric: bool, dtype: Any = np.float16) -> Rounded:
    """Rounded to nearest, one scale of ``dtype`` for ``group`` numbers; zero points from 1 to 15.

    Scales have 6 bits, so that float16 holds the numbers and whoever multiplies with them at full width.
    """
    blocks = weight.astype(np.float32).reshape(len(weight), -1, group)
    if symmetric:
        scales = np.abs(blocks).max(axis=-1) / 7
        zeros = np.full(scales.shape, 8)
    else:
        low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
        scales = (high - low) / 15
        zeros = np.clip(np.round(-low / scales), 1, 15).astype(np.int64)
    share, exponent = np.frexp(scales.astype(np.float32))
    scales = np.ldexp(np.round(share * 64) / 64, exponent).astype(dtype).astype(np.float32)
    codes = np.clip(np.round(blocks / scales[..., None]) + zeros[..., None], 0, 15).astype(np.int64)
    return Rounded(codes.reshape(weight.shape), zeros, scales)


def words(codes: NDArray[np.int64], order: tuple[int, ...] = tuple(range(8))) -> NDArray[np.int32]:
    """(R, C) codes as (R, C / 8) words; ``order`` says which of eight codes each nibble holds, the lowest first."""
    groups = codes.reshape(len(codes), -1, 8)
    packed = sum(groups[:, :, column].astype(np.uint64) << np.uint64(4 * i) for i, column in enumerate(order))
    return np.asarray(packed, np.uint32).view(np.int32)


def awq_tensors(name: str, matrix: Rounded) -> dict[str, NDArray[Any]]:
    """As autoawq's WQLinear_GEMM packs it."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        f"{name}.qweight": words(np.ascontiguousarray(matrix.codes.T), order),
        f"{name}.qzeros": words(np.ascontiguousarray(matrix.zeros.T), order),
        f"{name}.scales": np.ascontiguousarray(matrix.scales.T.astype(np.float16)),
    }


def gptq_tensors(name: str, matrix: Rounded, stored_less: int = 1) -> dict[str, NDArray[Any]]:
    """As gptqmodel packs it; zero points are stored as one less in its first format, and as they are in its second."""
    columns, groups = matrix.codes.shape[1], matrix.scales.shape[1]
    return {
        f"{name}.qweight": np.ascontiguousarray(words(matrix.codes).T),
        f"{name}.qzeros": words(np.ascontiguousarray(matrix.zeros.T) - stored_less),
        f"{name}.scales": np.ascontiguousarray(matrix.scales.T.astype(np.float16)),
        f"{name}.g_idx": (np.arange(columns) // (columns // groups)).astype(np.int32),
    }


def gptq_v2_tensors(name: str, matrix: Rounded) -> dict[str, NDArray[Any]]:
    """As gptqmodel packs it in its second format."""
    return gptq_tensors(name, matrix, 0)


def packed_tensors(name: str, matrix: Rounded) -> dict[str, NDArray[Any]]:
    """As compressed-tensors packs it, symmetric or not."""
    zeros = {f"{name}.weight_zero_point": np.ascontiguousarray(words(np.ascontiguousarray(matrix.zeros.T)).T)}
    return {
        f"{name}.weight_packed": words(matrix.codes),
        f"{name}.weight_scale": matrix.scales.astype(ml_dtypes.bfloat16),
        f"{name}.weight_shape": np.array(matrix.codes.shape, np.int64),
        **({} if (matrix.zeros == 8).all() else zeros),
    }


def modelopt_tensors(name: str, matrix: Rounded) -> dict[str, NDArray[Any]]:
    """As ModelOpt packs it; inputs of o_proj and down_proj are multiplied, as no norm can take that."""
    steps = ((matrix.codes - 8) & 15).astype(np.uint8)
    columns = matrix.codes.shape[1]
    scales = {f"{name}.pre_quant_scale": input_scales(columns)}
    return {
        f"{name}.weight": steps[0::2] | steps[1::2] << np.uint8(4),
        f"{name}.weight_scale": matrix.scales.astype(np.float16),
        **(scales if name.endswith(("o_proj", "down_proj")) else {}),
    }


def input_scales(columns: int) -> NDArray[np.float16]:
    """What inputs are multiplied by: a half, one or two."""
    return np.resize(np.array([0.5, 1, 2], np.float16), columns)


def packed_settings(group: int | None, *, symmetric: bool) -> dict[str, Any]:
    """The settings of compressed-tensors."""
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "group_size": group}
    weights["strategy"] = "channel" if group is None else "group"
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    head = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    return {**head, "config_groups": {"group_0": scheme}, "ignore": ["lm_head"], "kv_cache_scheme": None}


@dataclass(frozen=True)
class Tool:
    """What a tool writes."""

    tensors: Callable[[str, Rounded], dict[str, NDArray[Any]]]
    settings: Mapping[str, Any]
    symmetric: bool
    group: int | None = GROUP  # None: one scale a row
    dtype: Any = np.float16


TOOLS = {
    "awq": Tool(
        awq_tensors,
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
        symmetric=False,
    ),
    "gptq": Tool(
        gptq_tensors,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "checkpoint_format": "gptq"},
        symmetric=False,
    ),
    "gptq-symmetric": Tool(
        gptq_tensors, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True}, symmetric=True
    ),
    "gptq-v2": Tool(
        gptq_v2_tensors,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
        symmetric=False,
    ),
    "compressed-tensors": Tool(
        packed_tensors, packed_settings(GROUP, symmetric=True), symmetric=True, dtype=ml_dtypes.bfloat16
    ),
    "compressed-tensors-asymmetric": Tool(
        packed_tensors, packed_settings(GROUP, symmetric=False), symmetric=False, dtype=ml_dtypes.bfloat16
    ),
    "compressed-tensors-channel": Tool(
        packed_tensors,
        packed_settings(None, symmetric=False),
        symmetric=False,
        group=None,
        dtype=ml_dtypes.bfloat16,
    ),
    "modelopt": Tool(
        modelopt_tensors,
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": GROUP, "has_zero_point": False},
        symmetric=True,
    ),
}


def is_rounded(name: str) -> bool:
    """Whether tools round a matrix: those of the decoder."""
    return name.startswith(DECODER) and name.endswith("_proj.weight")


def write_quantized(
    tool: Tool,
    directory: Path,
    *,
    settings: Mapping[str, Any] = {},
    changed: Callable[[dict[str, NDArray[Any]]], None] = lambda tensors: None,
) -> dict[str, NDArray[np.float32]]:
    """Write the tiny model as a tool does, with other ``settings`` and tensors ``changed``; returns the numbers that
    its matrices stand for."""
    tiny = open_checkpoint("synthetic:tiny-llava")
    write_checkpoint(tiny, directory)
    tensors, numbers = quantized_tensors(tool, tiny)
    changed(tensors)
    write_safetensors(directory / "model.safetensors", tensors)
    config = {**tiny.config, "quantization_config": {**tool.settings, **settings}}
    (directory / "config.json").write_text(json.dumps(config))
    return numbers


def quantized_tensors(
    tool: Tool, checkpoint: Checkpoint
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """Every tensor as a tool writes it, and the numbers of matrices."""
    tensors: dict[str, NDArray[Any]] = {}
    numbers: dict[str, NDArray[np.float32]] = {}
    for name in checkpoint:
        tensor = checkpoint.tensor(name)
        if not is_rounded(name):
            tensors[name] = tensor
            continue
        group = tool.group or tensor.shape[1]
        matrix = rounded(tensor, group, symmetric=tool.symmetric, dtype=tool.dtype)
        own = tool.tensors(name.removesuffix(".weight"), matrix)
        tensors.update(own)
        scales = own.get(f"{name.removesuffix('weight')}pre_quant_scale", np.float32(1))
        numbers[name] = matrix.numbers * np.asarray(scales, np.float32)
    return tensors, numbers
