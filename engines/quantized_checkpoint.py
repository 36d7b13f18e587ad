"""Checkpoints that are quantized already: codes and scales as other tools store them, repacked and never rounded.

What each tool writes is told where its layout is, after that tool's own code. Matrices appear under the names that
they had before, ``*.weight``; the tensors that hold them don't.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CheckpointError
from engines.checkpoint import DirectoryCheckpoint, load_checkpoint
from engines.quantize.formats.int4 import SMALLEST_BLOCK, Int4Matrix, dequantize, int4_from_codes

_LARGEST_BLOCK = 128  # that every target reads; what has one scale for more is stored in several blocks of that scale
_FLOAT16_ROUNDING = 2.0**-11
_ZERO = 8  # the code of 0.0 where nothing else is said
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of eight columns, the one that each nibble of a word holds

_log = logging.getLogger(__name__)

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix as it was stored: ``y = (x * input_scales) @ matrix.T``."""

    matrix: Int4Matrix
    input_scales: NDArray[np.float32] | None = None  # (K,)


class QuantizedCheckpoint(DirectoryCheckpoint):
    """A directory whose matrices are 4-bit codes, or some of them; others are as they are stored.

    :meth:`tensor` gives such a matrix as the numbers that it stands for, in float32; :meth:`int4` as it is.
    """

    @property
    def method(self) -> str:
        """``quant_method`` of the settings."""
        assert self.quantization is not None
        return str(self.quantization["quant_method"])

    @cached_property
    def quantized(self) -> frozenset[str]:
        """Names of the matrices that are codes, ``*.weight``."""
        layout = self._layout
        ending = f".{layout.marker}"
        return frozenset(f"{name.removesuffix(ending)}.weight" for name in self._entries if name.endswith(ending))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, of a quantized matrix that of its numbers."""
        return self._layout.shape(self._stored(name)) if name in self.quantized else super().shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The tensor's type, of a quantized matrix that of its numbers."""
        return np.dtype(np.float32) if name in self.quantized else super().dtype(name)

    def tensor(self, name: str) -> NDArray[Any]:
        """A view of the file, or the numbers of a quantized matrix: float32, the scales of its inputs in them."""
        if name not in self.quantized:
            return super().tensor(name)
        found = self.int4(name)
        numbers = dequantize(found.matrix)
        return numbers if found.input_scales is None else numbers * found.input_scales

    def block_size(self, name: str) -> int:
        """Of a quantized matrix as it is stored here: the largest power of two up to 128 that divides its groups.

        Raises:
            CheckpointError: there is none from 16 on, or its groups are not those that the settings say.
        """
        group = self._group_size(name)
        block_size = min(group & -group, _LARGEST_BLOCK)
        if block_size < SMALLEST_BLOCK:
            raise self._stored(name).wrong(f"groups of {group} weights are no blocks of 16, 32, 64 or 128")
        return block_size

    def has_zeros(self, name: str) -> bool:
        """Whether a zero point of a quantized matrix is another than 8; reads those."""
        return self._zeros(name) is not None

    def has_wide_scales(self, name: str) -> bool:
        """Whether the scales of a quantized matrix are float32, which float16 rounds by 2^-11 of each or less."""
        return bool(self._layout.scales(self._stored(name)).dtype == np.float32)

    def int4(self, name: str) -> QuantizedMatrix:
        """A quantized matrix, its codes and zero points as they are.

        Raises:
            CheckpointError: its tensors contradict each other, or hold what no 4-bit matrix can.
        """
        stored, group, block_size = self._stored(name), self._group_size(name), self.block_size(name)
        codes, zeros, scales = self._layout.codes(stored), self._zeros(name), _float16_scales(stored)
        if (empty := scales == 0).any():  # every weight of such a group is zero, whatever its code
            zero = np.full(scales.shape, _ZERO, np.uint8) if zeros is None else zeros
            codes = np.where(np.repeat(empty, group, axis=1), np.repeat(zero, group, axis=1), codes)
            scales = np.where(empty, np.float16(1), scales)
        blocks = group // block_size
        matrix = int4_from_codes(
            codes,
            np.repeat(scales, blocks, axis=1),
            None if zeros is None else np.repeat(zeros, blocks, axis=1),
            block_size,
        )
        return QuantizedMatrix(matrix, _input_scales(stored, matrix.columns))

    def check(self) -> None:
        """See whether settings and tensors are of a layout that is read here.

        Raises:
            CheckpointError: they are not.
        """
        layout = self._layout
        layout.check(_Settings(self.quantization or {}, f"{self.path}: quantization by {self.method}"))
        for name in self._entries:
            stem, _, ending = name.rpartition(".")
            if ending in layout.refused or (ending in layout.endings and f"{stem}.weight" not in self.quantized):
                raise CheckpointError(
                    f"{self.path} holds {name}, which is of no matrix of 4 bits as {self.method} stores them; take the "
                    "model that it was quantized from"
                )
        for name in self.quantized:
            for ending in layout.needed:
                if f"{name.removesuffix('weight')}{ending}" not in self._entries:
                    raise self._stored(name).wrong(f"{ending} is missing")

    @cached_property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.method]

    @cached_property
    def _names(self) -> Mapping[str, None]:
        """Names of tensors, quantized matrices under their own."""
        hidden = {*self._layout.endings}
        plain = (name for name in self._entries if name.rpartition(".")[2] not in hidden)
        return dict.fromkeys([*plain, *sorted(self.quantized)])

    def _stored(self, name: str) -> _Stored:
        return _Stored(self.method, name.removesuffix(".weight"), self._entries, super().tensor)

    def _group_size(self, name: str) -> int:
        """Weights that share a scale: what the settings say, as long as there are scales for that."""
        stored, layout = self._stored(name), self._layout
        rows, columns = layout.shape(stored)
        found = layout.scales(stored).shape
        groups = {columns if size == -1 else size for size in layout.group_sizes(self.quantization or {})}
        for group in groups:
            if columns % group == 0 and found == (rows, columns // group):
                return group
        said = " or ".join(map(str, sorted(groups)))
        raise stored.wrong(f"scales {list(found)} for {rows} x {columns} weights in groups of {said}")

    def _zeros(self, name: str) -> Codes | None:
        stored, layout = self._stored(name), self._layout
        zeros = layout.zeros(stored, self.quantization or {})
        if zeros is None:
            return None
        rows, columns = layout.shape(stored)
        if zeros.shape != (expected := (rows, columns // self._group_size(name))):
            raise stored.wrong(f"zero points {list(zeros.shape)} for {list(expected)} groups")
        return None if (zeros == _ZERO).all() else zeros


def load_any_checkpoint(path: Path) -> DirectoryCheckpoint:
    """Open a checkpoint's directory, of plain numbers or of 4-bit codes.

    Raises:
        CheckpointError: it cannot be read; it is quantized by another method, into other bits, or in another layout.
    """
    plain = load_checkpoint(path, tuple(_LAYOUTS))
    if plain.quantization is None:
        return plain
    checkpoint = QuantizedCheckpoint(**{each.name: getattr(plain, each.name) for each in fields(plain)})
    checkpoint.check()
    return checkpoint


@dataclass(frozen=True)
class _Stored:
    """The tensors of one matrix, by what their names end with."""

    method: str
    name: str  # of the matrix, without .weight
    entries: Mapping[str, Any]
    read: Callable[[str], NDArray[Any]]

    def __contains__(self, ending: str) -> bool:
        return f"{self.name}.{ending}" in self.entries

    def tensor(self, ending: str, dtypes: str, dimensions: int = 2) -> NDArray[Any]:
        """A tensor, of one of some types by their names."""
        found = self.read(f"{self.name}.{ending}")
        if found.dtype.name not in dtypes.split() or found.ndim != dimensions:
            raise self.wrong(f"{ending} is {found.dtype.name} {list(found.shape)}, and not {dtypes}")
        return found

    def wrong(self, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.name}: {found}, which is no matrix of 4 bits as {self.method} stores it; copy the checkpoint "
            "again, or take the model that it was quantized from"
        )


@dataclass(frozen=True)
class _Settings:
    """What a checkpoint says of how it was quantized."""

    values: Mapping[str, Any]
    where: str

    def expect(self, key: str, *expected: object) -> None:
        """Refuse a value that is none of those; None among them allows it to be left out."""
        if (found := self.values.get(key)) not in expected:
            said = " or ".join(repr(value) for value in expected if value is not None) or "nothing"
            raise CheckpointError(
                f"{self.where} has {key} {found!r}; expected {said}: take the model that it was quantized from, which "
                "is rounded here as the recipe says"
            )

    def ignored(self, key: str, why: str) -> None:
        """Say that a value counts for nothing."""
        if self.values.get(key):
            _log.warning("%s has %s %r, which counts for nothing: %s", self.where, key, self.values[key], why)


@dataclass(frozen=True)
class _Layout:
    """What a tool stores for one matrix, (N, K)."""

    marker: str  # what the name of one tensor of every matrix ends with, and of no other
    endings: tuple[str, ...]  # of all of them, but for biases
    needed: tuple[str, ...]
    shape: Callable[[_Stored], tuple[int, int]]
    codes: Callable[[_Stored], Codes]  # (N, K)
    scales: Callable[[_Stored], NDArray[Any]]  # (N, groups)
    zeros: Callable[[_Stored, Mapping[str, Any]], Codes | None]  # (N, groups); None: all are 8
    group_sizes: Callable[[Mapping[str, Any]], list[int]]  # by the settings; -1: one scale a row
    check: Callable[[_Settings], None]
    refused: tuple[str, ...] = ()  # endings of tensors that change what is computed, and are not read


# AWQ as autoawq's WQLinear_GEMM packs it: qweight int32 (K, N / 8), qzeros (groups, N / 8), scales (groups, N). A word
# holds eight columns, the first in its lowest nibble, in an order of their own.


def _awq_columns(words: NDArray[np.int32]) -> Codes:
    """(R, N / 8) words as (N, R) codes."""
    nibbles = _nibbles(words).reshape(len(words), -1, len(_AWQ_ORDER))
    columns = np.empty_like(nibbles)
    columns[..., _AWQ_ORDER] = nibbles
    return np.ascontiguousarray(columns.reshape(len(words), -1).T)


def _awq_shape(stored: _Stored) -> tuple[int, int]:
    words = stored.tensor("qweight", "int32")
    return 8 * words.shape[1], words.shape[0]


def _check_awq(settings: _Settings) -> None:
    settings.expect("bits" if "bits" in settings.values else "w_bit", 4)
    for key in ("version", "format", "checkpoint_format"):
        version = settings.values.get(key)
        _Settings({key: version.lower() if isinstance(version, str) else version}, settings.where).expect(
            key, None, "gemm"
        )


# GPTQ as gptqmodel and auto_gptq pack it: qweight int32 (K / 8, N), eight rows a word; qzeros (groups, N / 8), eight
# columns a word; scales (groups, N); g_idx (K,), the group of each row. Zero points are stored as one less than they
# are in the format "gptq", and as they are in "gptq_v2".


def _gptq_shape(stored: _Stored) -> tuple[int, int]:
    words = stored.tensor("qweight", "int32")
    return words.shape[1], 8 * words.shape[0]


def _gptq_codes(stored: _Stored) -> Codes:
    if "g_idx" in stored:
        _check_groups(stored, stored.tensor("g_idx", "int32 int64", 1))
    return _nibbles(stored.tensor("qweight", "int32").T)


def _check_groups(stored: _Stored, groups: NDArray[Any]) -> None:
    """Refuse rows whose groups are not one behind the other."""
    _, columns = _gptq_shape(stored)
    count = len(stored.tensor("scales", "float16 bfloat16 float32"))
    if groups.shape != (columns,) or groups.min() < 0 or groups.max() >= count:
        seen = f"{list(groups.shape)}, from {groups.min()} to {groups.max()}"
        raise stored.wrong(f"g_idx is {seen}, for {count} groups of {columns} inputs")
    if not np.array_equal(groups, np.arange(columns) // -(-columns // count)):
        raise CheckpointError(
            f"{stored.name}: its inputs are in an order of their own (g_idx, by desc_act), which engines that stack "
            "matrices cannot follow; take a checkpoint that was quantized with desc_act false"
        )


def _gptq_zeros(stored: _Stored, settings: Mapping[str, Any]) -> Codes:
    nibbles = np.ascontiguousarray(_nibbles(stored.tensor("qzeros", "int32")).T)
    if _gptq_format(settings) == "gptq_v2":
        return nibbles
    if (nibbles == 15).any():
        raise CheckpointError(
            f"{stored.name}: a zero point is stored as 15, and of the format gptq means 16 to some libraries and 0 to "
            "others; take a checkpoint of the format gptq_v2, or one that was quantized with sym true"
        )
    zeros: Codes = nibbles + np.uint8(1)
    return zeros


def _gptq_format(settings: Mapping[str, Any]) -> object:
    return settings.get("checkpoint_format") or settings.get("format") or "gptq"


def _check_gptq(settings: _Settings) -> None:
    settings.expect("bits", 4)
    settings.expect("pack_dtype", None, "int32")
    settings.expect("is_marlin_format", None, False)
    for key in ("checkpoint_format", "format"):
        settings.expect(key, None, "gptq", "gptq_v2")
    own = settings.values.get("dynamic") or {}
    if not isinstance(own, Mapping) or not all(str(pattern).startswith("-:") for pattern in own):
        settings.expect("dynamic", None)


# compressed-tensors of format "pack-quantized": weight_packed int32 (N, K / 8), eight columns a word; weight_scale
# (N, groups); weight_zero_point (N / 8, groups), eight rows a word, where it is asymmetric; weight_shape, N and K.


def _packed_shape(stored: _Stored) -> tuple[int, int]:
    rows, columns = (int(size) for size in stored.tensor("weight_shape", "int64 int32", 1))
    words = stored.tensor("weight_packed", "int32")
    if words.shape != (rows, -(-columns // 8)):
        raise stored.wrong(f"weight_packed is {list(words.shape)}, and weight_shape {rows} x {columns}")
    return rows, columns


def _packed_codes(stored: _Stored) -> Codes:
    return _nibbles(stored.tensor("weight_packed", "int32"))[:, : _packed_shape(stored)[1]]


def _packed_zeros(stored: _Stored, settings: Mapping[str, Any]) -> Codes | None:
    if "weight_zero_point" not in stored:
        if not all(group["weights"].get("symmetric", True) for group in settings["config_groups"].values()):
            raise stored.wrong("weight_zero_point is missing")
        return None
    rows, _ = _packed_shape(stored)
    words = stored.tensor("weight_zero_point", "int32")
    return np.ascontiguousarray(_nibbles(words.T)[:, :rows].T)


def _check_packed(settings: _Settings) -> None:
    settings.expect("format", "pack-quantized")
    settings.expect("transform_config", None, {})
    settings.expect("quantization_status", None, "compressed")
    sparsity = _Settings(settings.values.get("sparsity_config") or {}, f"{settings.where}: sparsity_config")
    sparsity.expect("format", None, "dense")
    settings.ignored("kv_cache_scheme", "keys and values are kept as the recipe says")
    groups = settings.values.get("config_groups")
    if (
        not isinstance(groups, Mapping)
        or not groups
        or not all(isinstance(group, Mapping) for group in groups.values())
    ):
        raise CheckpointError(f"{settings.where} has config_groups {groups!r}; expected one or more by name")
    for name, group in groups.items():
        own = _Settings(group, f"{settings.where}: {name}")
        own.expect("input_activations", None)
        own.expect("output_activations", None)
        own.expect("format", None, "pack-quantized")
        weights = _Settings(group.get("weights") or {}, f"{own.where}: weights")
        weights.expect("num_bits", 4)
        weights.expect("type", "int")
        weights.expect("strategy", "group", "channel")


def _packed_groups(settings: Mapping[str, Any]) -> list[int]:
    weights = [group["weights"] for group in settings["config_groups"].values()]
    return [each["group_size"] if each["strategy"] == "group" else -1 for each in weights]


# ModelOpt's unified checkpoint of W4A16_AWQ: weight uint8 (N / 2, K), of two rows the first in the low nibble, each in
# two's complement; weight_scale (N, groups); pre_quant_scale (K,), which inputs are multiplied by.


def _modelopt_shape(stored: _Stored) -> tuple[int, int]:
    packed = stored.tensor("weight", "uint8")
    return 2 * packed.shape[0], packed.shape[1]


def _modelopt_codes(stored: _Stored) -> Codes:
    packed = np.asarray(stored.tensor("weight", "uint8"))
    rows = np.stack([packed & 0x0F, packed >> 4], axis=1).reshape(-1, packed.shape[1])
    codes: Codes = rows ^ np.uint8(_ZERO)
    return codes


def _check_modelopt(settings: _Settings) -> None:
    settings.expect("quant_algo", "W4A16_AWQ", "INT4_AWQ")
    settings.expect("has_zero_point", None, False)
    settings.ignored("kv_cache_quant_algo", "keys and values are kept as the recipe says")
    settings.ignored("kv_cache_scheme", "keys and values are kept as the recipe says")


def _modelopt_groups(settings: Mapping[str, Any]) -> list[int]:
    groups = settings.get("config_groups") or {}
    return _one_group_size({**settings, **next((g["weights"] for g in groups.values() if "weights" in g), {})})


def _one_group_size(settings: Mapping[str, Any]) -> list[int]:
    size = settings.get("group_size", settings.get("q_group_size"))
    if type(size) is not int or (size < 1 and size != -1):
        raise CheckpointError(
            f"quantization by {settings.get('quant_method')} has group_size {size!r}; expected weights"
        )
    return [size]


def _by_row(ending: str) -> Callable[[_Stored], NDArray[Any]]:
    return lambda stored: stored.tensor(ending, "float16 bfloat16 float32")


def _by_group(ending: str) -> Callable[[_Stored], NDArray[Any]]:
    return lambda stored: stored.tensor(ending, "float16 bfloat16 float32").T


def _nibbles(words: NDArray[np.int32]) -> Codes:
    """(R, C) words of 32 bits as (R, 8 C) codes, the lowest nibble of each first."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    codes: Codes = np.stack([octets & 0x0F, octets >> 4], axis=-1)
    flat: Codes = codes.reshape(len(words), -1)
    return flat


def _float16_scales(stored: _Stored) -> NDArray[np.float16]:
    """Scales as engines store them; what float16 makes of others is said, and refused where nothing is left."""
    scales = np.asarray(_LAYOUTS[stored.method].scales(stored))
    wide = scales.astype(np.float32)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    if not np.isfinite(half).all() or (wide < 0).any() or ((half == 0) & (wide != 0)).any():
        raise stored.wrong(f"scales from {wide.min():.3g} to {wide.max():.3g}, of which float16 cannot hold one")
    error = np.abs(half.astype(np.float32) - wide).max(initial=0.0, where=wide > 0)
    if (np.abs(half.astype(np.float32) - wide) > _FLOAT16_ROUNDING * wide).any():  # where float16 has fewer bits
        _log.warning("%s: scales are rounded to float16, the smallest by up to %.1e", stored.name, error)
    return np.ascontiguousarray(half)


def _input_scales(stored: _Stored, columns: int) -> NDArray[np.float32] | None:
    if "pre_quant_scale" not in stored:
        return None
    scales = stored.tensor("pre_quant_scale", "float16 bfloat16 float32", 1).astype(np.float32)
    if scales.shape != (columns,) or not np.isfinite(scales).all():
        raise stored.wrong(f"pre_quant_scale is {list(scales.shape)}, for {columns} inputs, or not finite")
    return None if (scales == 1).all() else scales


_WORDS = ("qweight", "qzeros", "scales")
_LAYOUTS: Mapping[str, _Layout] = {
    "awq": _Layout(
        marker="qweight",
        endings=_WORDS,
        needed=_WORDS,
        shape=_awq_shape,
        codes=lambda stored: _awq_columns(stored.tensor("qweight", "int32")),
        scales=_by_group("scales"),
        zeros=lambda stored, _: _awq_columns(stored.tensor("qzeros", "int32")),
        group_sizes=_one_group_size,
        check=_check_awq,
    ),
    "gptq": _Layout(
        marker="qweight",
        endings=(*_WORDS, "g_idx"),
        needed=_WORDS,
        shape=_gptq_shape,
        codes=_gptq_codes,
        scales=_by_group("scales"),
        zeros=_gptq_zeros,
        group_sizes=_one_group_size,
        check=_check_gptq,
    ),
    "compressed-tensors": _Layout(
        marker="weight_packed",
        endings=("weight_packed", "weight_scale", "weight_zero_point", "weight_shape"),
        needed=("weight_scale", "weight_shape"),
        shape=_packed_shape,
        codes=_packed_codes,
        scales=_by_row("weight_scale"),
        zeros=_packed_zeros,
        group_sizes=_packed_groups,
        check=_check_packed,
        refused=("weight_g_idx", "input_scale", "weight_global_scale", "input_global_scale", "bitmask"),
    ),
    "modelopt": _Layout(
        marker="weight_scale",
        endings=("weight_scale", "pre_quant_scale"),
        needed=("weight",),
        shape=_modelopt_shape,
        codes=_modelopt_codes,
        scales=_by_row("weight_scale"),
        zeros=lambda *_: None,
        group_sizes=_modelopt_groups,
        check=_check_modelopt,
        refused=("weight_scale_2", "input_scale", "svdquant_lora_a", "svdquant_lora_b"),
    ),
}
