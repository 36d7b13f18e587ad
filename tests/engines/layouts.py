"""Layouts of a checkpoint's directory that leave a choice of files, and what transformers 5 chooses; tests nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.families.synthetic import open_checkpoint
from tests.engines.checkpoints import write_checkpoint, write_safetensors

NORM = "language_model.model.norm.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CHOSEN, OTHER = 3.0, 5.0  # what tells files apart: every number of a norm, and the mean of an image processor


@dataclass(frozen=True)
class Layout:
    """How a whole checkpoint of one file, with ``CHOSEN`` in its norm and its image processor, is changed."""

    change: Callable[[Path], None]


def write_layout(name: str, directory: Path) -> Path:
    """Write the tiny checkpoint in the layout of that name."""
    tiny = open_checkpoint("synthetic:tiny-llava")
    write_checkpoint(tiny, directory)
    write_safetensors(directory / SINGLE, _tensors(CHOSEN))
    _write_json(directory / "preprocessor_config.json", {**tiny.image_processor, "image_mean": [CHOSEN] * 3})
    LAYOUTS[name].change(directory)
    return directory


def _tensors(norm: float) -> dict[str, Any]:
    tiny = open_checkpoint("synthetic:tiny-llava")
    return {**{name: tiny.tensor(name) for name in tiny}, NORM: np.full(tiny.shape(NORM), norm, np.float16)}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document))


def _read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _write_shards(directory: Path, files: Mapping[str, Mapping[str, Any]], index: str = INDEX, **promised: str) -> None:
    """Shards and an index of them; ``promised`` has the shard that the index names the norm in."""
    for file, tensors in files.items():
        write_safetensors(directory / file, tensors)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    if promised:
        weight_map[NORM] = promised["norm"]
    _write_json(directory / index, {"metadata": {"total_size": 1}, "weight_map": weight_map})


def _split(norms: tuple[float | None, float | None], **options: str) -> Callable[[Path], None]:
    """Two shards instead of the single file: the norm is in those that have a number for it."""

    def change(directory: Path) -> None:
        (directory / SINGLE).unlink()
        first, second = ({} if norm is None else {NORM: _tensors(norm)[NORM]} for norm in norms)
        for index, (name, tensor) in enumerate(_tensors(0).items()):
            if name != NORM:
                (first, second)[index % 2][name] = tensor
        _write_shards(directory, {"a.safetensors": first, "b.safetensors": second}, **options)

    return change


def _add_older_shards(directory: Path) -> None:
    _write_shards(directory, {"old.safetensors": _tensors(OTHER)})


def _name_weights(directory: Path) -> None:
    (directory / SINGLE).rename(directory / "mine.safetensors")
    write_safetensors(directory / SINGLE, _tensors(OTHER))
    settings = _read_json(directory / "config.json")
    _write_json(directory / "config.json", {**settings, "transformers_weights": "mine.safetensors"})


def _name_index(directory: Path) -> None:
    _write_shards(directory, {"c.safetensors": _tensors(CHOSEN)}, "mine.safetensors.index.json")
    write_safetensors(directory / SINGLE, _tensors(OTHER))
    settings = _read_json(directory / "config.json")
    _write_json(directory / "config.json", {**settings, "transformers_weights": "mine.safetensors.index.json"})


def _nest_image_processor(directory: Path) -> None:
    path = directory / "preprocessor_config.json"
    settings = _read_json(path)
    _write_json(directory / "processor_config.json", {"image_processor": settings})
    _write_json(path, {**settings, "image_mean": [OTHER] * 3})


def _add_processor_without_images(directory: Path) -> None:
    _write_json(directory / "processor_config.json", {"processor_class": "LlavaProcessor"})


LAYOUTS: Mapping[str, Layout] = {
    "a single file": Layout(lambda directory: None),
    "a single file beside older shards": Layout(_add_older_shards),
    "shards": Layout(_split((None, CHOSEN))),
    "a tensor in two shards": Layout(_split((OTHER, CHOSEN), norm="a.safetensors")),
    "a tensor in another shard than the index says": Layout(_split((None, CHOSEN), norm="a.safetensors")),
    "weights that config.json names": Layout(_name_weights),
    "an index that config.json names": Layout(_name_index),
    "two image processors": Layout(_nest_image_processor),
    "a processor without images": Layout(_add_processor_without_images),
}

CHOSEN_TEMPLATE = "the chosen template"
_CHOSEN, _OTHER = {"chat_template": CHOSEN_TEMPLATE}, {"chat_template": "another template"}
TEMPLATES: tuple[Mapping[str, Any], ...] = (  # files by name, with what they hold
    {"chat_template.jinja": CHOSEN_TEMPLATE, "tokenizer_config.json": _OTHER},
    {"chat_template.json": _CHOSEN, "chat_template.jinja": "another template"},
    {"processor_config.json": _CHOSEN, "chat_template.json": _OTHER, "chat_template.jinja": "another template"},
)


def write_templates(directory: Path, files: Mapping[str, Any]) -> None:
    """Write files that hold chat templates into a checkpoint's directory."""
    for name, content in files.items():
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
