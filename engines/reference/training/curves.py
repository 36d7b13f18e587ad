"""Draw the training curves: ``python -m engines.reference.training.curves LOG.jsonl ... --out curves.svg``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

_NOT_LOSSES = ("step", "lr", "images_per_s")


def draw(logs: list[Path], out: Path) -> None:
    """One panel a log, one line a loss, against the step."""
    figure = Figure(figsize=(5.2 * len(logs), 3.4), layout="constrained")
    for axes, log in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for name in (key for key in rows[0] if key not in _NOT_LOSSES):
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1)
        axes.set(title=log.stem, xlabel="step", ylabel="loss", yscale="log")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("curves.svg"))
    args = parser.parse_args()
    draw(args.logs, args.out)


if __name__ == "__main__":
    main()
