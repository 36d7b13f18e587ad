"""Measure bundles on held-out scenes: ``python -m engines.reference.evaluate BUNDLE [BUNDLE ...]``.

Renders scenes whose seeds were never trained on, inspects each with every bundle through the onboard runtime, and
prints one table.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from tqdm import tqdm

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.signals import holding_interrupts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="+", help="directory that edge-engines build wrote")
    parser.add_argument("--scenes", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    args = parser.parse_args()
    if args.scenes < 1:
        parser.error(f"--scenes is {args.scenes}; one at least is needed")
    with holding_interrupts():
        from engines.reference.scores import evaluate, table

    results = evaluate(args.bundle, args.scenes, lambda numbers: tqdm(numbers, unit="scene", disable=None))
    if args.json:
        print(json.dumps({bundle: asdict(scores) for bundle, scores in results.items()}, indent=2))
    else:
        print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("evaluate", main))
