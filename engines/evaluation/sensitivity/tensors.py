"""Treated tensors on disk, one file each, and a checkpoint in which some take the place of the trained ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from engines.calibration.images import CalibrationImages
from engines.calibration.rounding import activations_by_part
from engines.checkpoint import Checkpoint
from engines.evaluation.sensitivity.weight_quantization import Problem, WeightQuantization, quantized
from engines.families import read_model
from engines.families.base import Part
from engines.quantize.activations import Activations


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """A checkpoint with some of its tensors read from other files."""

    original: Checkpoint
    files: Mapping[str, Path]  # by tensor

    @property
    def name(self) -> str:
        """The original's."""
        return self.original.name

    @property
    def config(self) -> Mapping[str, Any]:
        """The original's."""
        return self.original.config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """The original's."""
        return self.original.generation_config

    @property
    def image_processor(self) -> Mapping[str, Any]:
        """The original's."""
        return self.original.image_processor

    @property
    def tokenizer_json(self) -> bytes:
        """The original's."""
        return self.original.tokenizer_json

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """The original's."""
        return self.original.tokenizer_config

    @property
    def chat_template(self) -> str | None:
        """The original's."""
        return self.original.chat_template

    @property
    def prompt(self) -> Mapping[str, str] | None:
        """The original's."""
        return self.original.prompt

    def __contains__(self, name: object) -> bool:
        return name in self.original

    def __iter__(self) -> Iterator[str]:
        return iter(self.original)

    def shape(self, name: str) -> tuple[int, ...]:
        """The original's."""
        return self.original.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The original's."""
        return self.original.dtype(name)

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor, quantized or not."""
        file = self.files.get(name)
        return self.original.tensor(name) if file is None else np.load(file)

    def sha256(self) -> str:
        """A hash of the original and of where the other tensors lie."""
        text = "\n".join(f"{name} {file}" for name, file in sorted(self.files.items()))
        return hashlib.sha256(f"{self.original.sha256()}\n{text}".encode()).hexdigest()


def quantized_file(folder: Path, tensor: str, quantization: WeightQuantization) -> Path:
    """Where a quantized tensor lies."""
    return folder / f"{tensor}.{str(quantization).replace('/', '-')}.npy"


def write_quantized(
    checkpoint: Checkpoint, images: CalibrationImages, quantizations: Collection[WeightQuantization], folder: Path
) -> None:
    """Treat every matrix in every way, and write the results as float16; what is there already is kept.

    Images are looked at only where a quantization asks for activations.

    Matrices that engines stack, as they read the same input, are quantized as one. An embedding, which meets no input,
    is rounded by ``fitted`` where a quantization asks for activations.

    Raises:
        CalibrationError: an activation is not finite, or nothing but zeros.
        SourceError: there is no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = read_model(checkpoint).parts
    matrices = [name for part in parts for name, p in part.parameters.items() if p.is_matrix]
    missing = [t for t in quantizations if not all(quantized_file(folder, name, t).exists() for name in matrices)]
    if not missing:
        return
    [table] = [name for part in parts if part.role == "embedding" for name in part.parameters]
    _write(checkpoint, [table], Problem(_matrix(checkpoint, table)), missing, folder)
    observed: Iterable[tuple[Part, Mapping[str, Activations]]] = ((part, {}) for part in parts if part.emit is not None)
    if any(quantization.looks_at_inputs for quantization in missing):
        observed = activations_by_part(checkpoint, images)
    with tqdm(total=len(matrices) - 1, desc="rounding", unit="matrix", disable=None) as progress:
        for part, activations in observed:
            folds = {fold.matrix: fold for fold in part.folds}
            for stack, names in part.matrices.items():
                weight = np.concatenate([_matrix(checkpoint, name) for name in names])
                fold = folds.get(stack)
                seen = activations[stack] if activations else None
                problem = Problem(weight, seen, fold.producers if fold else None, fold is not None)
                _write(checkpoint, names, problem, missing, folder)
                progress.update(len(names))


def _matrix(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    return np.asarray(checkpoint.tensor(name), np.float32).reshape(checkpoint.shape(name)[0], -1)


def _write(
    checkpoint: Checkpoint,
    names: Sequence[str],
    problem: Problem,
    quantizations: Collection[WeightQuantization],
    folder: Path,
) -> None:
    """Treat the stack of the tensors ``names``, and write each of them in its own shape."""
    ends = np.cumsum([checkpoint.shape(name)[0] for name in names])[:-1]
    for quantization in quantizations:
        files = [quantized_file(folder, name, quantization) for name in names]
        if all(file.exists() for file in files):
            continue
        for name, file, values in zip(names, files, np.split(quantized(problem, quantization), ends), strict=True):
            temporary = file.with_suffix(".new")
            with temporary.open("wb") as stream:
                np.save(stream, values.reshape(checkpoint.shape(name)).astype(np.float16))
            os.replace(temporary, file)
