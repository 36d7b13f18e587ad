"""Between two checkpoints: ``python -m engines.reference.training.interpolate BEFORE AFTER --share 0.7 --out FOLDER``.

What trains on from BEFORE to AFTER wins on what it is shown, and forgets some of the rest. Weights on the straight
line between them keep most of both (WiSE-FT, Wortsman et al. 2022).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import CheckpointError, UsageError

_WEIGHTS = "model.safetensors"


def interpolate(before: Path, after: Path, share: float, out: Path) -> None:
    """Write the checkpoint that lies ``share`` of the way from ``before`` to ``after``: float16, the rest as ``after``.

    Raises:
        CheckpointError: a folder holds no weights in one file, or the weights are not of one architecture.
    """
    old, new = _weights(before), _weights(after)
    if {name: weight.shape for name, weight in old.items()} != {name: weight.shape for name, weight in new.items()}:
        raise CheckpointError(f"{before} and {after} have other tensors; train {after} with --start {before}")
    if _settings(before) != _settings(after):
        raise CheckpointError(f"{before} and {after} have another config.json; train {after} with --start {before}")
    shutil.copytree(after, out, dirs_exist_ok=True)
    between = {
        name: ((1 - share) * old[name].astype(np.float32) + share * new[name].astype(np.float32)).astype(np.float16)
        for name in old
    }
    save_file(between, out / _WEIGHTS, metadata={"format": "pt"})


def _weights(folder: Path) -> dict[str, NDArray[np.floating]]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; give a checkpoint that engines.reference.train wrote")
    weights: dict[str, NDArray[np.floating]] = load_file(path)
    return weights


def _settings(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("transformers_version", None)
    return settings


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="BEFORE", help="checkpoint that was trained on from")
    parser.add_argument("after", type=Path, metavar="AFTER", help="checkpoint that came of it")
    parser.add_argument("--share", type=float, required=True, help="0 is BEFORE, 1 is AFTER")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        raise UsageError(f"--share is {args.share}; expected 0 to 1")
    interpolate(args.before, args.after, args.share, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("interpolate", main))
