"""Golden arrays of families that look at tiles: what transformers makes of frames of five shapes, at two caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import TiledImage
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.checkpoint import DirectoryCheckpoint, load_checkpoint
from engines.evaluation.fidelity import Trace
from engines.families import read_model
from engines.families.base import ImageOptions
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint
from tests.engines.checkpoints import write_checkpoint
from tests.parity.golden import PROMPT
from tests.parity.golden_processors import SHAPES, golden_frame

GOLDEN = Path(__file__).parents[1] / "golden" / "families.npz"
CASES: Mapping[str, tuple[str, int]] = {  # a checkpoint, and the most tiles
    "smolvlm 1": ("tiny-smolvlm", 1),
    "smolvlm 12": ("tiny-smolvlm", 12),
    "internvl 12": ("tiny-internvl", 12),
    "internvl 4": ("tiny-internvl", 4),
    "internvl qwen3 4": ("tiny-internvl-qwen3", 4),
}
TOKENS = 64
_STEPS = [0, 1, 31, 63]  # whose logits are stored
_ROWS = [*range(8), *range(-8, 0)]  # of features and embeddings that are stored


@dataclass(frozen=True)
class GoldenAnswer:
    """What transformers makes of one frame: some rows and steps, and every token."""

    features: NDArray[np.float32]
    image_embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    tokens: tuple[int, ...]
    image_tokens: int


def excerpt(trace: Trace) -> GoldenAnswer:
    """What is stored of a trace."""
    embeddings = trace.image_embeddings
    rows = [row for row in _ROWS if -len(embeddings) <= row < len(embeddings)]
    steps = trace.logits[_STEPS]
    return GoldenAnswer(trace.features[_ROWS], embeddings[rows], steps, trace.tokens, len(embeddings))


def write_family_checkpoint(name: str, directory: Path) -> DirectoryCheckpoint:
    """Write the synthetic checkpoint of that name; opened."""
    return load_checkpoint(write_checkpoint(synthetic_checkpoint(name, SYNTHETIC_CONFIGS[name]), directory / name))


def image_of(checkpoint: DirectoryCheckpoint, tiles: int) -> TiledImage:
    """How its family looks at a frame, in so many tiles at most."""
    image = read_model(checkpoint, options=ImageOptions(tiles=tiles)).image
    assert isinstance(image, TiledImage)
    return image


def load_golden_families() -> dict[tuple[str, str], GoldenAnswer]:
    """The stored answers, by the case and the frame's shape."""
    fields = ("features", "image_embeddings", "logits", "tokens", "image_tokens")
    keys = [(case, shape) for case in CASES for shape in SHAPES]
    with np.load(GOLDEN) as arrays:
        stored = {key: [arrays[" ".join((*key, field))] for field in fields] for key in keys}
    return {
        key: GoldenAnswer(features, embeddings, logits, tuple(tokens.tolist()), int(count))
        for key, (features, embeddings, logits, tokens, count) in stored.items()
    }


def make_golden_families(directory: Path) -> dict[tuple[str, str], GoldenAnswer]:
    """What transformers makes of every frame. Needs the ``parity`` extra."""
    from engines.evaluation.parity import open_transformers

    made = {}
    for case, (name, tiles) in CASES.items():
        checkpoint = write_family_checkpoint(name, directory)
        image = image_of(checkpoint, tiles)
        trace = open_transformers(checkpoint.path, PROMPT, eos_token_ids=())
        for shape in SHAPES:
            frame = golden_frame(shape)
            found = trace(pixels_from_frame(frame, image), TOKENS, layout_of(image, *frame.shape[:2]))
            made[case, shape] = excerpt(found)
    return made


def main() -> None:
    """Write the arrays."""
    import tempfile
    from dataclasses import asdict

    arrays: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for key, answer in make_golden_families(Path(directory)).items():
            arrays |= {" ".join((*key, field)): np.asarray(value) for field, value in asdict(answer).items()}
    np.savez_compressed(GOLDEN, **arrays)
    print(f"families: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
