"""A Hugging Face checkpoint on disk, opened without copying it; knows files and tensors, no architecture."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edge_runtime import progress
from edge_runtime.bundle.opening import sha256_of_file
from edge_runtime.errors import CheckpointError

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"{sign}{8 * size}": np.dtype(f"<{sign.lower()}{size}") for sign in "IU" for size in (1, 2, 4, 8)},
    "BOOL": np.dtype("?"),
}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_LARGEST_JSON_BYTES = 64 << 20  # tokenizers reach 20 MB
_INDEX_NAME = "model.safetensors.index.json"
_INDEX_ENDING = ".safetensors.index.json"
_MODELOPT_SETTINGS = "hf_quant_config.json"  # where ModelOpt says how it quantized; newer ones in config.json too


class Checkpoint(Protocol):
    """What the builder needs to know of a model: its settings, its texts, and its tensors one at a time."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def config(self) -> Mapping[str, Any]:
        """``config.json``."""

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``, empty where there is none."""

    @property
    def image_processor(self) -> Mapping[str, Any]:
        """``preprocessor_config.json``."""

    @property
    def tokenizer_json(self) -> bytes:
        """``tokenizer.json``."""

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``, empty where there is none."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation, where the checkpoint has one."""

    @property
    def prompt(self) -> Mapping[str, str] | None:
        """``before_image`` and ``after_image``, where the checkpoint brings its own."""

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor."""

    def __iter__(self) -> Iterator[str]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """The tensor's type, without reading it."""

    def tensor(self, name: str) -> NDArray[Any]:
        """The tensor's values, read when they are used."""

    def sha256(self) -> str:
        """A hash of everything above, tensors included."""


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies in a safetensors file."""

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class DirectoryCheckpoint:
    """A directory as ``save_pretrained`` writes it; tensors are memory-mapped."""

    path: Path
    name: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    image_processor: Mapping[str, Any]
    tokenizer_json: bytes
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None
    prompt: Mapping[str, str] | None
    quantization: Mapping[str, Any] | None  # what the settings say of it; None: the tensors are plain numbers
    _entries: Mapping[str, _Entry] = field(repr=False)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the file's header."""
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """The tensor's type, from the file's header."""
        return self._entry(name).dtype

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view of the file."""
        entry = self._entry(name)
        if not math.prod(entry.shape):
            return np.empty(entry.shape, entry.dtype)
        try:
            return np.memmap(entry.file, entry.dtype, "r", entry.offset, entry.shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{name} cannot be read from {entry.file}: {error}") from error

    def sha256(self) -> str:
        """A hash of the files' contents."""
        names = ["config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"]
        names += [
            _MODELOPT_SETTINGS,
            *_TEMPLATES,
            "tokenizer.json",
            "inspection_prompt.json",
            *sorted({e.file.name for e in self._entries.values()}),
        ]
        digest = hashlib.sha256()
        try:
            names = [name for name in names if (self.path / name).exists()]
            progress.begin("hashing the checkpoint", sum((self.path / name).stat().st_size for name in names))
            for name in names:
                digest.update(f"{name} {sha256_of_file(self.path / name)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}; check it, and its permissions") from error
        return digest.hexdigest()

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; is it the whole checkpoint?") from None


def load_checkpoint(path: Path, readable: Collection[str] = ()) -> DirectoryCheckpoint:
    """Open a checkpoint's directory: read its settings and its tensors' headers.

    ``readable`` names the methods of quantization whose codes the caller can read.

    Raises:
        CheckpointError: a file is missing, truncated, or not what it claims to be; the weights are quantized by another
            method, or an adapter belongs to them.
    """
    if not path.is_dir():
        found = f"{path} is a file" if path.exists() else f"there is no checkpoint directory {path}"
        raise CheckpointError(f"{found}; expected a Hugging Face model's directory")
    _check_no_adapter(path)
    config = _load_json(path / "config.json")
    quantization = _load_quantization(path, config, readable)
    tokenizer = path / "tokenizer.json"
    _load_json(tokenizer)
    tokenizer_config = _load_json(path / "tokenizer_config.json", required=False)
    return DirectoryCheckpoint(
        path=path,
        name=_model_name(path.resolve()),
        config=config,
        generation_config=_load_json(path / "generation_config.json", required=False),
        image_processor=_load_image_processor(path),
        tokenizer_json=tokenizer.read_bytes(),
        tokenizer_config=tokenizer_config,
        chat_template=_load_template(path, tokenizer_config),
        prompt=_load_prompt(path / "inspection_prompt.json"),
        quantization=quantization,
        _entries=_load_entries(path, config.get("transformers_weights")),
    )


def _model_name(path: Path) -> str:
    """The directory's name; what lies in one that is just called "checkpoint" is named after the one above."""
    return path.parent.name if path.name == "checkpoint" else path.name


def _load_template(path: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The chat template that transformers 5 gives a processor; of several the default one.

    What the processor's settings say counts most, then the older JSON file, then the newer file. Where a processor has
    none, the tokenizer's own is taken, which transformers asks for texts only.
    """
    text_file, json_file = (path / name for name in _TEMPLATES)
    template = _load_json(path / "processor_config.json", required=False).get("chat_template")
    template = template or _load_json(json_file, required=False).get("chat_template")
    if not template and text_file.exists():
        try:
            return text_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{text_file} cannot be read ({error}); copy the checkpoint again") from error
    template = template or tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{path} holds a chat_template that is no text; expected Jinja, or a list with a default")
    return template


def _check_no_adapter(path: Path) -> None:
    """Refuse a LoRA adapter, alone or beside its base, which transformers would load it with where peft is there."""
    adapter = path / "adapter_config.json"
    if not adapter.exists():
        return
    base = _load_json(adapter).get("base_model_name_or_path") or "BASE"
    whole = (path / "config.json").exists()
    raise CheckpointError(
        f"{path} holds an adapter ({adapter.name}){' beside a model' if whole else ', and no model'}; merge the two, "
        "where peft, transformers and torch are installed: PeftModel.from_pretrained(AutoModelForImageTextToText."
        f"from_pretrained({base!r}), {path.name!r}).merge_and_unload().save_pretrained(MERGED), and "
        f"AutoProcessor.from_pretrained({base!r}).save_pretrained(MERGED)"
        + ("; or move the adapter's files away, to build the model without it" if whole else "")
    )


def _load_quantization(path: Path, config: Mapping[str, Any], readable: Collection[str]) -> Mapping[str, Any] | None:
    """What is said of codes that stand for the weights, with their ``quant_method``; None where nothing is.

    It is said at the top of config.json, in one of its parts, or in a file of ModelOpt's own, which counts most.
    """
    settings = {"": config, **{name: value for name, value in config.items() if isinstance(value, dict)}}
    found: dict[str, Any] = {}
    file = path / "config.json"
    for where, values in settings.items():
        for key in ("quantization_config", "compression_config"):
            if values.get(key) is not None and where != key:
                said = values[key]
                if not isinstance(said, dict) or not isinstance(said.get("quant_method"), str):
                    method = said.get("quant_method", said) if isinstance(said, dict) else said
                    raise CheckpointError(_why_unreadable(file, key, method, readable))
                if said["quant_method"] not in readable:
                    raise CheckpointError(_why_unreadable(file, key, said["quant_method"], readable))
                found = found or said
    if (path / _MODELOPT_SETTINGS).exists():
        own = _load_json(path / _MODELOPT_SETTINGS).get("quantization")
        if (
            not isinstance(own, dict)
            or "modelopt" not in readable
            or found.get("quant_method", "modelopt") != "modelopt"
        ):
            raise CheckpointError(_why_unreadable(path / _MODELOPT_SETTINGS, "quantization", own, readable))
        found = {**found, **own, "quant_method": "modelopt"}
    return found or None


def _why_unreadable(file: Path, key: str, method: object, readable: Collection[str]) -> str:
    codes = f", or 4-bit codes by {', '.join(readable)}" if readable else ""
    return (
        f"{file} says that the weights are quantized ({key} of {method!r}); expected float16, bfloat16 or "
        f"float32{codes}: take the model that it was made from, which is rounded here as the recipe says"
    )


def _load_image_processor(path: Path) -> Mapping[str, Any]:
    """What the processor's own file nests, as transformers 5 writes it; else the file that older versions wrote."""
    processor = _load_json(path / "processor_config.json", required=False).get("image_processor")
    if processor is None:
        processor = _load_json(path / "preprocessor_config.json", required=False)
    if not isinstance(processor, dict) or not processor:
        raise CheckpointError(f"{path} says nothing of image preprocessing; expected preprocessor_config.json")
    return processor


def _load_prompt(path: Path) -> Mapping[str, str] | None:
    prompt = _load_json(path, required=False)
    if not prompt:
        return None
    if not all(isinstance(prompt.get(key), str) for key in ("before_image", "after_image")):
        raise CheckpointError(f"{path} must hold the strings before_image and after_image; it holds {list(prompt)}")
    return prompt


def _load_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        if path.stat().st_size > _LARGEST_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_LARGEST_JSON_BYTES} bytes; expected a small JSON file")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; expected a Hugging Face model's directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); copy the checkpoint again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds a {type(document).__name__}; expected a JSON object")
    return document


def _load_entries(path: Path, named: object) -> Mapping[str, _Entry]:
    """Headers of the files that transformers 5 would load: those that config.json names, a single file, or shards.

    ``named`` is ``transformers_weights`` of config.json. Where a single file and an index lie side by side, the single
    file counts; of a tensor that several shards hold, the one in the last.
    """
    index = path / _INDEX_NAME
    weights = path / "model.safetensors"
    if named is not None:
        if not _is_file_name(named) or not str(named).endswith((".safetensors", _INDEX_ENDING)):
            raise CheckpointError(
                f"{path / 'config.json'} has transformers_weights {named!r}; expected a safetensors file or an index "
                "of its own directory"
            )
        weights = index = path / str(named)
    is_single = not weights.name.endswith(_INDEX_ENDING) and (named is not None or weights.is_file())
    if not is_single and not index.is_file():
        raise CheckpointError(_why_no_weights(path))
    if is_single:
        return _load_header(weights)
    shards = _load_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(_is_file_name(name) for name in shards.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files of its own directory")
    found: dict[str, _Entry] = {}
    for name in sorted(set(shards.values())):
        found.update(_load_header(path / name))
    if missing := [tensor for tensor in shards if tensor not in found]:
        raise CheckpointError(f"{path / shards[missing[0]]} lacks {missing[0]}, which {index.name} promises")
    return found


def _why_no_weights(path: Path) -> str:
    convert = (
        "convert the weights, where transformers and torch are installed: "
        "AutoModelForImageTextToText.from_pretrained(HERE).save_pretrained(THERE), and "
        "AutoProcessor.from_pretrained(HERE).save_pretrained(THERE)"
    )
    return f"{path} holds neither model.safetensors nor {_INDEX_NAME}; {convert}"


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _load_header(path: Path) -> dict[str, _Entry]:
    """Parse and check a safetensors header: 8 bytes of length, JSON, then the tensors' bytes."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            start = 8 + header_bytes
            if size_bytes < 8 or header_bytes > _LARGEST_HEADER_BYTES or start > size_bytes:
                raise CheckpointError(
                    f"{path} is no whole safetensors file: {size_bytes} bytes, and a header of {header_bytes}; "
                    "copy the checkpoint again"
                )
            header = json.loads(stream.read(header_bytes))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); copy it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object; copy the checkpoint again")
    header.pop("__metadata__", None)
    return {name: _check_entry(path, name, entry, start, size_bytes) for name, entry in header.items()}


def _check_entry(path: Path, name: str, entry: Any, start: int, size_bytes: int) -> _Entry:
    if isinstance(entry, dict) and isinstance(kind := entry.get("dtype"), str) and kind not in _DTYPES:
        raise CheckpointError(
            f"{path}: {name} is stored as {kind}; expected float16, bfloat16 or float32 numbers: take the model that "
            "this one was quantized from"
        )
    try:
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        sizes_are_whole = all(type(size) is int and size >= 0 for size in (*shape, begin, end))
        fits = sizes_are_whole and end - begin == math.prod(shape) * dtype.itemsize and start + end <= size_bytes
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header's entry of {name} is malformed or of an unknown type") from error
    if not fits:
        raise CheckpointError(
            f"{path}: {name} claims bytes {begin} to {end} for {list(shape)} {dtype}, in a file of {size_bytes}; "
            "the file is truncated or altered: copy it again"
        )
    return _Entry(path, dtype, shape, start + begin)
