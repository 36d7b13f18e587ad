"""Write ``docs/quantization.md``: ``python -m benchmarks.quantization docs/quantization.jsonl``.

Takes what ``edge-engines sensitivity`` measured of the reference inspector, builds a bundle by every recipe and by
``auto`` at several budgets, inspects the same scenes with each, and puts tables, plot and words together. Scenes come
as the model was trained on them, and hard to read: there float16 itself is often in doubt, and bits decide. Fewer bits
than any engine has a format for are rounded to, and run at float16, to see where things break.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.quantization.page import PLOT_NAME, Row, page
from benchmarks.quantization.plot import pareto_svg
from benchmarks.quantization.scenes import chunks_of, load_seen, measure
from engines.build import build
from engines.calibration.images import open_images
from engines.checkpoint import Checkpoint
from engines.evaluation.sensitivity.grid import together
from engines.evaluation.sensitivity.groups import WeightGroup, weight_groups
from engines.evaluation.sensitivity.journal import load_journal
from engines.evaluation.sensitivity.run import quantized_checkpoint, tensors_of
from engines.evaluation.sensitivity.tensors import write_quantized
from engines.evaluation.sensitivity.weight_quantization import quantization_from_text
from engines.evaluation.solver.auto import AutoPlan, plan_automatically
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import FLOAT16, Precision, PrecisionPlan, load_recipe

CHECKPOINT = "engines/reference/checkpoint"
TARGET = "onnxruntime"
PAGE = Path("docs/quantization.md")
SCENES = Path("docs/quantization-scenes.jsonl")  # what every bundle made of every scene
PEERS = Path("docs/quantization-peers.md")  # what benchmarks.bench_rounding printed
BUNDLES = Path("out/quantization")
RECIPES = (
    "fp16",
    "asymmetric-int8",
    "asymmetric-int4",
    "asymmetric-int4-gptq",
    "asymmetric-int4-awq",
    "vision-only-int4",
    "nf4",
    "uniform-int4",
)
# Without a format: which component at how many bits, by which method.
FEWER_BITS = (
    ("rtn3", ""),
    *((method, component) for method in ("gptq2", "rtn2") for component in ("", "vision_encoder", "decoder")),
)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path, help="what edge-engines sensitivity wrote")
    parser.add_argument("--hard", type=int, default=1000, help="scenes that are hard to read (%(default)s)")
    parser.add_argument("--plain", type=int, default=400, help="scenes as the model was trained on (%(default)s)")
    parser.add_argument("--images", default="rendered:128", help="to calibrate on (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="each on one thread (%(default)s)")
    args = parser.parse_args()
    checkpoint, journal = open_checkpoint(CHECKPOINT), load_journal(args.measurements)
    groups = weight_groups(read_model(checkpoint), int(journal.binding["block_groups"]))
    autos = plan_autos(checkpoint, args.measurements)
    plans = {name: plan_of(name) for name in RECIPES} | {name: auto.best.precisions for name, auto in autos.items()}
    known = {name: f"{name} {plan.sha256[:8]}" for name, plan in plans.items()}  # an auto changes with measurements
    bundles = {known[name]: build_once(checkpoint, plan, args.images, known[name]) for name, plan in plans.items()}
    quantized = dict(build_quantized(checkpoint, groups, args.images, tensors_of(args.measurements)))
    measure(bundles, known["fp16"], [*chunks_of(args.hard, args.plain)], SCENES, args.processes)
    # A quarter of the hard scenes shows a model that breaks.
    measure(bundles | quantized, known["fp16"], [*chunks_of(args.hard // 4, 0)], SCENES, args.processes)
    seen = load_seen(SCENES)
    rows = []
    for name, plan in plans.items():
        planned = plan_bundle(checkpoint, plan, TARGET)
        sizes = planned.manifest.size_bytes, planned.memory_plan.planned_bytes
        rows.append(Row(name, *sizes, *(seen[conditions][known[name]] for conditions in seen)))
    fewer = [Row(name, _bytes(groups, *name.split(", ")), None, *(seen[s][name] for s in seen)) for name in quantized]
    peers = PEERS.read_text(encoding="utf-8").splitlines() if PEERS.exists() else []
    PAGE.with_name(PLOT_NAME).write_text(pareto_svg([*rows, *fewer]), encoding="utf-8")
    PAGE.write_text(page(rows, fewer, autos, journal, groups, peers), encoding="utf-8")
    print(PAGE)
    return 0


def plan_of(name: str) -> PrecisionPlan:
    """A recipe, or one that only this page is interested in."""
    if name != "vision-only-int4":
        return load_recipe(name)
    encoder = Precision("int4", "rtn", 128)
    kinds = dict.fromkeys(("connector", "embedding", "decoder", "lm_head"), FLOAT16)
    return PrecisionPlan(name, name, {"vision_encoder": encoder, **kinds})


def plan_autos(checkpoint: Checkpoint, measurements: Path) -> dict[str, AutoPlan]:
    """What ``auto`` chooses at the memory of some recipes, and halfway between."""
    memory = {name: plan_bundle(checkpoint, plan_of(name), TARGET).memory_plan.planned_bytes for name in RECIPES}
    small, usual = memory["uniform-int4"], memory["asymmetric-int4"]
    budgets = {
        "auto, memory of uniform-int4": small,
        "auto, halfway to asymmetric-int4": (small + usual) // 2,
        "auto, memory of asymmetric-int4": usual,
    }
    return {n: plan_automatically(checkpoint, measurements, TARGET, budget) for n, budget in budgets.items()}


def build_once(checkpoint: Checkpoint, plan: PrecisionPlan, images: str, name: str) -> Path:
    """The bundle of a plan, from an earlier run if there is one."""
    out = BUNDLES / name.replace(" ", "-")
    if not out.exists():
        wants = plan.is_calibrated or plan.has_int8
        build(checkpoint, plan, TARGET, out, images=open_images(images) if wants else None)
    return out.absolute()


def build_quantized(
    checkpoint: Checkpoint, groups: tuple[WeightGroup, ...], images: str, folder: Path
) -> Iterator[tuple[str, Path]]:
    """Bundles of fewer bits, and what they are called."""
    quantizations = {method: quantization_from_text(method) for method, _ in FEWER_BITS}
    write_quantized(checkpoint, open_images(images), list(quantizations.values()), folder)
    for method, component in FEWER_BITS:
        experiment = together(groups, quantizations[method], component)
        found = quantized_checkpoint(checkpoint, groups, experiment, folder)
        name = f"{component or 'everything'}, {method}"
        plan = replace(load_recipe("fp16"), recipe=name)
        yield name, build_once(found, plan, images, name)


def _bytes(groups: tuple[WeightGroup, ...], component: str, method: str) -> int:
    """What weights of a component would take at some bits, with a scale of 16 bits a block, and the others at 16."""
    quantization = quantization_from_text(method)
    whole = "" if component == "everything" else component
    coarse = together(groups, quantization, whole).quantizations
    few = quantization.bits + 16 / quantization.block_size
    return round(sum(group.parameters * (few if group.name in coarse else 16) for group in groups) / 8)
