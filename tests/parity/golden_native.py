"""Golden arrays of models that keep a frame's shape: what transformers makes of five, stored so that tests need no
torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.checkpoint import DirectoryCheckpoint, load_checkpoint
from engines.evaluation.fidelity import Trace
from engines.families.base import ImageOptions
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint
from tests.engines.checkpoints import write_checkpoint
from tests.parity.golden_tiles import SHAPES

NAMES = ("tiny-qwen3-vl", "tiny-qwen2.5-vl")
GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = 64
ROWS = 8  # of logits that are stored; of the others, the token that they choose
FRAMES = ImageOptions(frames=tuple((width, height) for height, width in SHAPES.values()))


@dataclass(frozen=True)
class GoldenPicture:
    """What transformers makes of one frame."""

    patches: NDArray[np.uint8]  # (P, 3 h w): before they are normalised
    trace: Trace


def write_native_checkpoint(name: str, directory: Path) -> DirectoryCheckpoint:
    """Write the checkpoint; opened."""
    return load_checkpoint(write_checkpoint(synthetic_checkpoint(name, SYNTHETIC_CONFIGS[name]), directory / name))


def patch_bytes(pixels: NDArray[np.float32], processor: Mapping[str, Any]) -> NDArray[np.float64]:
    """Normalised patches (P, 3 h w) as 0..255 again."""
    mean, std = (np.array(processor[key])[:, None] for key in ("image_mean", "image_std"))
    channels = pixels.reshape(len(pixels), 3, -1)
    return np.asarray((channels * std + mean) * 255).reshape(len(pixels), -1)


def load_golden_pictures(name: str) -> dict[str, GoldenPicture]:
    """The stored frames, by their shape."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {
            shape: GoldenPicture(
                arrays[f"{shape} patches"],
                Trace(
                    arrays[f"{shape} features"],
                    arrays[f"{shape} image_embeddings"],
                    arrays[f"{shape} logits"],
                    tuple(int(token) for token in arrays[f"{shape} tokens"]),
                ),
            )
            for shape in SHAPES
        }
