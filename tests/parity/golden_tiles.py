"""Golden arrays of LLaVA 1.6: what transformers makes of frames of five shapes, stored so that tests need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.checkpoint import DirectoryCheckpoint, load_checkpoint
from engines.evaluation.fidelity import Trace
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint
from tests.engines.checkpoints import write_checkpoint

NAME = "tiny-llava-next"
GOLDEN = Path(__file__).parents[1] / "golden" / f"{NAME}.npz"
SHAPES = {"square": (100, 100), "4:3": (96, 128), "16:9": (90, 160), "portrait": (160, 90), "3:1": (60, 180)}
TOKENS = 12
MEAN = np.array((0.48145466, 0.4578275, 0.40821073))[:, None, None]
STD = np.array((0.26862954, 0.26130258, 0.27577711))[:, None, None]


@dataclass(frozen=True)
class GoldenFrame:
    """What transformers makes of one frame."""

    tiles: NDArray[np.uint8]  # (N, 3, H, W): pixel tensors before they are normalised
    trace: Trace


def golden_frame(shape: str) -> NDArray[np.uint8]:
    """A frame (H, W, 3) of coloured patches; raw bits, because a generator's distributions change between versions.

    Its colours are far from black and white: there versions of Pillow differ, which resize columns or rows first.
    """
    height, width = SHAPES[shape]
    bits = np.random.PCG64(height * 1000 + width).random_raw(3 * 6 * 8)
    coarse = (64 + (bits >> np.uint64(57))).astype(np.uint8).reshape(6, 8, 3)
    return np.ascontiguousarray(coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width])


def write_next_checkpoint(directory: Path) -> DirectoryCheckpoint:
    """Write the checkpoint; opened."""
    return load_checkpoint(write_checkpoint(synthetic_checkpoint(NAME, SYNTHETIC_CONFIGS[NAME]), directory / NAME))


def bytes_of(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Normalised pixel tensors as 0..255 again."""
    return np.asarray((pixels * STD + MEAN) * 255)


def load_golden_tiles() -> dict[str, GoldenFrame]:
    """The stored frames, by their shape."""
    with np.load(GOLDEN) as arrays:
        return {
            shape: GoldenFrame(
                arrays[f"{shape} tiles"],
                Trace(
                    arrays[f"{shape} features"],
                    arrays[f"{shape} image_embeddings"],
                    arrays[f"{shape} logits"],
                    tuple(int(token) for token in arrays[f"{shape} tokens"]),
                ),
            )
            for shape in SHAPES
        }
