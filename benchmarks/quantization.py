"""Write ``docs/quantization.md``: ``python -m benchmarks.quantization docs/quantization.jsonl``.

Takes what ``edge-engines sensitivity`` measured of the reference inspector, builds a bundle by every recipe and by
``auto`` at several budgets, inspects the same scenes with each, and puts tables, plot and words together. Scenes come
twice: as they are rendered, and at two fifths of their contrast, as a lens in haze shows them, where every bit counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.quantization_page import HAZE, PLOT_NAME, TRACED, Row, page, pareto_svg
from edge_runtime import Inspector
from edge_runtime.bundle import Bundle
from engines.build import build
from engines.calibration.images import open_images
from engines.checkpoint import Checkpoint
from engines.families import read_model
from engines.plan import plan_bundle
from engines.precision import FLOAT16, Precision, PrecisionPlan, load_recipe
from engines.reference.scenes import FIRST_HELD_OUT_SEED, Scene, render_scene
from engines.reference.scores import Scores, Tally
from engines.sensitivity.groups import weight_groups
from engines.sensitivity.journal import load_journal
from engines.sensitivity.outcomes import divergence
from engines.sensitivity.scoring import traces
from engines.solver.auto import AutoPlan, plan_automatically
from engines.synthetic import open_checkpoint

CHECKPOINT = "engines/reference/checkpoint"
TARGET = "onnxruntime"
PAGE = Path("docs/quantization.md")
RESULTS = Path("docs/quantization.json")
PEERS = Path("docs/quantization-peers.md")  # what benchmarks.bench_rounding printed
_FIRST_TRACED_SEED = FIRST_HELD_OUT_SEED + 100_000  # no scene that the sensitivity study or the reports see
RECIPES = (
    "fp16",
    "asymmetric-int8",
    "asymmetric-int4",
    "asymmetric-int4-gptq",
    "asymmetric-int4-awq",
    "asymmetric-int4-awq-gptq",
    "vision-only-int4",
    "nf4",
    "uniform-int4",
)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path, help="what edge-engines sensitivity wrote")
    parser.add_argument("--again", action="store_true", help=f"measure bundles again, although {RESULTS} has results")
    parser.add_argument("--scenes", type=int, default=400, help="to inspect with every bundle (%(default)s)")
    parser.add_argument("--images", default="rendered:128", help="to calibrate on (%(default)s)")
    args = parser.parse_args()
    checkpoint, journal = open_checkpoint(CHECKPOINT), load_journal(args.measurements)
    autos = plan_autos(checkpoint, args.measurements)
    if args.again or not RESULTS.exists():
        with tempfile.TemporaryDirectory(prefix="quantization-") as folder:
            rows = measure(build_all(checkpoint, autos, args.images, Path(folder)), args.scenes)
        RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    documents = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [Row(**{**row, "clear": Scores(**row["clear"]), "hazy": Scores(**row["hazy"])}) for row in documents]
    groups = weight_groups(read_model(checkpoint), int(journal.binding["block_groups"]))
    peers = PEERS.read_text(encoding="utf-8").splitlines() if PEERS.exists() else []
    PAGE.with_name(PLOT_NAME).write_text(pareto_svg(rows), encoding="utf-8")
    PAGE.write_text(page(rows, autos, journal, groups, peers), encoding="utf-8")
    print(PAGE)
    return 0


def plan_of(name: str) -> PrecisionPlan:
    """A recipe, or one that only this page is interested in."""
    if name != "vision-only-int4":
        return load_recipe(name)
    eyes = Precision("int4", "rtn", 128)
    kinds = dict.fromkeys(("connector", "embedding", "decoder", "lm_head"), FLOAT16)
    return PrecisionPlan(name, name, {"vision_encoder": eyes, **kinds})


def plan_autos(checkpoint: Checkpoint, measurements: Path) -> dict[str, AutoPlan]:
    """What ``auto`` chooses at the memory of some recipes, and halfway between."""
    memory = {name: plan_bundle(checkpoint, plan_of(name), TARGET).ledger.planned_bytes for name in RECIPES}
    small, usual, large = memory["uniform-int4"], memory["asymmetric-int4"], memory["fp16"]
    budgets = {
        "auto, memory of uniform-int4": small,
        "auto, halfway to asymmetric-int4": (small + usual) // 2,
        "auto, memory of asymmetric-int4": usual,
        "auto, halfway to fp16": (usual + large) // 2,
    }
    return {n: plan_automatically(checkpoint, measurements, TARGET, budget) for n, budget in budgets.items()}


def build_all(checkpoint: Checkpoint, autos: Mapping[str, AutoPlan], images: str, folder: Path) -> dict[str, Bundle]:
    """A bundle for every recipe and every ``auto``."""
    plans = {name: plan_of(name) for name in RECIPES} | {name: auto.best.precisions for name, auto in autos.items()}
    seen = open_images(images)
    bundles = {}
    for index, (name, plan) in enumerate(plans.items()):
        wants = plan.is_calibrated or plan.has_int8
        bundles[name] = build(checkpoint, plan, TARGET, folder / str(index), images=seen if wants else None)
    return bundles


def measure(bundles: Mapping[str, Bundle], scenes: int) -> list[Row]:
    """Inspect ``scenes`` scenes with every bundle, clear and hazy."""
    seeds = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + scenes)
    traced = [render_scene(_FIRST_TRACED_SEED + index) for index in range(TRACED)]
    reference = traces(bundles["fp16"].path, traced)
    rows = []
    for name, bundle in bundles.items():
        clear, hazy = Tally(), Tally()
        with Inspector.open(bundle.path) as inspector:
            for seed in tqdm(seeds, desc=name, unit="scene", disable=None):
                scene = render_scene(seed)
                clear.add(scene, inspector.inspect(scene.image))
                scene = in_haze(scene)
                hazy.add(scene, inspector.inspect(scene.image))
        found = traces(bundle.path, traced)
        rows.append(
            Row(
                name,
                bundle.manifest.size_bytes,
                sum(bundle.manifest.ledger.values()),
                float(np.mean([divergence(*pair) for pair in zip(found, reference, strict=True)])),
                clear.scores(),
                hazy.scores(),
            )
        )
    return rows


def in_haze(scene: Scene) -> Scene:
    """The scene with less contrast around its mean brightness."""
    mean = scene.image.mean(axis=(0, 1))
    return replace(scene, image=np.round(mean + HAZE * (scene.image - mean)).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
