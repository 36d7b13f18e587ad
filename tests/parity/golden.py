"""Golden arrays: what transformers makes of small checkpoints, stored so that tests need no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.language.tokenizer import PromptTokens
from edge_runtime.vision.image_processors import ImageLayout, layout_of
from engines.checkpoint import DirectoryCheckpoint, load_checkpoint
from engines.evaluation.fidelity import Trace
from engines.families import read_model
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint
from tests.engines.checkpoints import newer_name, tiny_modern, tiny_variant, write_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
PROMPT = PromptTokens(before_image=(1, 70, 71, 72, 90, 91, 33), after_image=(14, 70, 80))
TOKENS = 24


def _write_tiny(directory: Path) -> Path:
    return write_checkpoint(synthetic_checkpoint("tiny-llava", SYNTHETIC_CONFIGS["tiny-llava"]), directory)


def _write_variant(directory: Path) -> Path:
    return write_checkpoint(tiny_variant(), directory, rename=newer_name)


def _write_modern(directory: Path) -> Path:
    return write_checkpoint(tiny_modern(), directory, rename=newer_name)


CHECKPOINTS: Mapping[str, Callable[[Path], Path]] = {
    "tiny-llava": _write_tiny,
    "tiny-variant": _write_variant,
    "tiny-modern": _write_modern,
}


def write_golden_checkpoint(name: str, directory: Path) -> DirectoryCheckpoint:
    """Write the checkpoint of that name; opened."""
    return load_checkpoint(CHECKPOINTS[name](directory / name))


def golden_pixels(checkpoint: DirectoryCheckpoint) -> NDArray[np.float32]:
    """Pixels (1, 3, H, W) between -2 and 2; raw bits, because a generator's distributions change between versions."""
    side = read_model(checkpoint).image.pixels.height
    bits = np.random.PCG64(7).random_raw(3 * side * side)
    return ((bits >> np.uint64(40)) / 2.0**24 * 4 - 2).astype(np.float32).reshape(1, 3, side, side)


def golden_layout(checkpoint: DirectoryCheckpoint) -> ImageLayout:
    """That of a frame of the pixels' own size."""
    image = read_model(checkpoint).image
    return layout_of(image, image.pixels.height, image.pixels.width)


def load_golden(name: str) -> Trace:
    """The stored trace."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return Trace(
            arrays["features"], arrays["image_embeddings"], arrays["logits"], tuple(int(t) for t in arrays["tokens"])
        )
