"""Remake the golden arrays: ``python -m tests.parity.make_golden``. Needs the ``parity`` extra."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from engines.evaluation.fidelity import Trace
from engines.evaluation.parity import open_transformers
from tests.parity.golden import CHECKPOINTS, GOLDEN, PROMPT, TOKENS, golden_pixels, write_golden_checkpoint


def make_golden(name: str, directory: Path) -> Trace:
    """What transformers makes of the checkpoint of that name, written below ``directory``."""
    checkpoint = write_golden_checkpoint(name, directory)
    return open_transformers(checkpoint.path, PROMPT, eos_token_ids=())(golden_pixels(checkpoint), TOKENS)


def main() -> None:
    """Write every array that tests compare with."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name in CHECKPOINTS:
            trace = make_golden(name, Path(directory))
            np.savez_compressed(
                GOLDEN / f"{name}.npz",
                features=trace.features,
                image_embeddings=trace.image_embeddings,
                logits=trace.logits,
                tokens=np.array(trace.tokens),
            )
            print(f"{name}: {(GOLDEN / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
