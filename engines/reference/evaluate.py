"""Measure bundles on held-out scenes, or on photographs: ``python -m engines.reference.evaluate BUNDLE [BUNDLE ...]``.

Renders scenes whose seeds were never trained on, inspects each with every bundle through the onboard runtime, and
prints one table. With ``--photos PATH``, inspects the labelled photographs of a folder instead (its ``dev.txt``, where
there is one), or of a list of files in it, and prints a table for each bundle.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.signals import holding_interrupts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="+", help="directory that edge-engines build wrote")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--scenes", type=int, default=2000, help="how many (%(default)s)")
    shown.add_argument("--photos", type=Path, metavar="PATH", help="folder of labelled photographs, or a list in one")
    parser.add_argument(
        "--hard", action="store_true", help="scenes with fainter, smaller defects, more stains and noise"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    args = parser.parse_args()
    if args.scenes < 1:
        parser.error(f"--scenes is {args.scenes}; one at least is needed")
    if args.photos is not None and args.hard:
        parser.error("--hard is about rendered scenes; drop it, or --photos")
    if args.photos is not None:
        return _on_photos(args.bundle, args.photos, args.json)
    with holding_interrupts():
        from engines.reference.scores import evaluate, table

    results = evaluate(args.bundle, args.scenes, lambda numbers: tqdm(numbers, unit="scene", disable=None), args.hard)
    if args.json:
        print(json.dumps({bundle: asdict(scores) for bundle, scores in results.items()}, indent=2))
    else:
        print(table(results))
    return 0


def _on_photos(bundles: list[str], path: Path, as_json: bool) -> int:
    with holding_interrupts():
        from engines.reference.photo_scores import evaluate_photos, photo_table
        from engines.reference.photographs import load_photographs

    photos = load_photographs(path)
    results = evaluate_photos(bundles, photos, lambda each: tqdm(each, unit="photo", disable=None))
    if as_json:
        rows = {bundle: {name: asdict(s) for name, s in scores.items()} for bundle, scores in results.items()}
        print(json.dumps(rows, indent=2))
    else:
        print(photo_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("evaluate", main))
