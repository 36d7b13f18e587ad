"""What each ``edge-engines`` command does, between its parsed arguments and its result on stdout."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import (
    BudgetExceededError,
    BuildError,
    BundleCorruptError,
    CheckpointError,
    MissingDependencyError,
    RecipeError,
    SourceError,
    VerificationError,
)
from edge_runtime.memory.plan import format_bytes
from edge_runtime.progress import telling
from edge_runtime.reports.schema import BRIDGE, ReportSchema, load_schema
from edge_runtime.stream.sources import open_source, shown
from edge_runtime.vision.image_processors import describe_image
from engines.build import build
from engines.calibrate import calibrate
from engines.calibration.classifier import QuantizedClassifier, find_pixel_scale, quantize_classifier
from engines.calibration.images import DEFAULT_IMAGES, open_images, warn_where_few
from engines.checkpoint import Checkpoint, DirectoryCheckpoint
from engines.cli.options import (
    check_build_options,
    check_classifier_options,
    check_recipe_options,
    check_route_option,
)
from engines.evaluation.quality import check_quality
from engines.evaluation.sensitivity.executors import in_processes, on_ray
from engines.evaluation.sensitivity.grid import combinations, one_at_a_time, whole_components
from engines.evaluation.sensitivity.run import Study, run_experiments
from engines.evaluation.sensitivity.table import as_json, sensitivity_table
from engines.evaluation.sensitivity.weight_quantization import DEFAULT_QUANTIZATIONS, quantization_from_text
from engines.evaluation.solver.auto import plan_automatically
from engines.evaluation.solver.solve import recipe_text
from engines.evaluation.verify import record_fidelity, verify
from engines.families.base import ImageOptions
from engines.families.synthetic import open_checkpoint
from engines.planning.devices import load_device
from engines.planning.plan import plan_bundle
from engines.planning.plan_report import outlook
from engines.quantize.recipe import PrecisionPlan, load_recipe

_DEFAULT_TARGET = "onnxruntime"
_MOST_NAMES = 5  # of layers, for each reason
_MOST_IMAGES = 64  # of --images: each is decoded twice, by the bundle and by transformers


def _plan(options: argparse.Namespace) -> None:
    device = load_device(options.device) if options.device else None
    target = options.target or (device.target if device else _DEFAULT_TARGET)
    checkpoint = open_checkpoint(options.checkpoint)
    recipe, chosen = _recipe(options, checkpoint, target)
    image, schema = _image_options(options), _schema(options)
    plan = plan_bundle(checkpoint, recipe, target, options.context, image=image, schema=schema)
    found = outlook(checkpoint, recipe, plan, device, options.budget)
    _print_result(options, f"{found}{chosen}", found.as_json())
    if not found.fits:
        raise BudgetExceededError(f"{found.verdict}; the plan says what else could be asked for")


def _build(options: argparse.Namespace) -> None:
    if options.family == "cnn":
        check_classifier_options(options)
        _build_classifier(options)
        return
    checkpoint, target = open_checkpoint(options.checkpoint), options.target or _DEFAULT_TARGET
    recipe, chosen = _recipe(options, checkpoint, target)
    check_build_options(options, target, recipe)
    bundle = build(
        checkpoint,
        recipe,
        target,
        options.out,
        budget_bytes=options.budget,
        context=options.context,
        image=_image_options(options),
        compute_capabilities=options.compute_capabilities,
        timing_cache=options.timing_cache,
        calibration_cache=options.calibration_cache,
        int8_route=options.int8_route,
        schema=_schema(options),
        images=open_images(options.images) if options.images else None,
        force=options.force,
    )
    if recipe.retention is not None:
        check_quality(checkpoint, bundle, recipe.retention)
    manifest = bundle.manifest
    text = f"{bundle.path}: {manifest.name}, {manifest.recipe}, {format_bytes(manifest.size_bytes)}{chosen}"
    seen = describe_image(manifest.image)
    document = {"bundle": str(bundle.path), "size_bytes": manifest.size_bytes, "image": seen}
    _print_result(options, f"{text}\n{seen}", document)


def _calibrate(options: argparse.Namespace) -> None:
    checkpoint, recipe, images = (
        open_checkpoint(options.checkpoint),
        load_recipe(options.recipe),
        open_images(options.images),
    )
    check_route_option(options, recipe)
    written = calibrate(
        checkpoint,
        recipe,
        images,
        options.out,
        options.tensorrt,
        int8_route=options.int8_route,
        image=_image_options(options),
        schema=_schema(options),
    )
    same = f"--recipe {options.recipe} --images {options.images} --target tensorrt"
    text = f"{options.out}: {len(written)} files; build there with {same} --calibration-cache {options.out.name}"
    _print_result(options, text, {"caches": [str(path) for path in written]})


def _build_classifier(options: argparse.Namespace) -> None:
    if options.out.exists() and not options.force:
        raise BuildError(f"{options.out} exists; choose another --out, or replace it with --force")
    source = Path(options.checkpoint)
    pixels = find_pixel_scale(source, options.preprocessing)
    images = open_images(options.images or DEFAULT_IMAGES)
    warn_where_few(images)
    found = quantize_classifier(source, images, options.out, pixels=pixels, per_tensor=options.per_tensor)
    document = {
        "file": str(found.path),
        "int8_layers": found.int8_layers,
        "float32_layers": dict(found.float32_layers),
        "float32_bytes": found.float32_bytes,
        "size_bytes": found.size_bytes,
        "preprocessing": asdict(pixels),
    }
    _print_result(options, _classifier_text(found), document)


def _classifier_text(found: QuantizedClassifier) -> str:
    """One line, and one for every reason why something stayed in float32."""
    reasons: dict[str, list[str]] = {}
    for name, reason in found.float32_layers.items():
        reasons.setdefault(reason, []).append(name)
    stayed = f"{len(found.float32_layers)} in float32 ({format_bytes(found.float32_bytes)} of weights)"
    lines = [f"{found.path}: {found.int8_layers} layers in INT8, {stayed}, {format_bytes(found.size_bytes)}"]
    for reason, names in reasons.items():
        more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"  in float32, as {reason}: {', '.join(names[:_MOST_NAMES])}{more}")
    return "\n".join(lines)


def _schema(options: argparse.Namespace) -> ReportSchema:
    return load_schema(options.schema or BRIDGE)


def _image_options(options: argparse.Namespace) -> ImageOptions:
    return ImageOptions(options.fit, tuple(options.frames or ()), options.tiles)


def _recipe(options: argparse.Namespace, checkpoint: Checkpoint, target: str) -> tuple[PrecisionPlan, str]:
    """The plan that is asked for; of one that was chosen also what the choice was."""
    check_recipe_options(options)
    if options.recipe != "auto":
        return load_recipe(options.recipe), ""
    if options.measurements is None or options.budget is None:
        raise RecipeError("the recipe auto needs --budget, and --measurements that edge-engines sensitivity wrote")
    auto = plan_automatically(
        checkpoint, options.measurements, target, options.budget, options.context, _image_options(options)
    )
    text = recipe_text(auto.best.precisions.components)
    return auto.best.precisions, f"\n\n{auto.table()}\n\nthe best of these, as a recipe:\n\n{text}"


def _verify(options: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(options.checkpoint) if options.checkpoint else None
    frames = _load_images(options.images) if options.images else None
    try:
        with telling(f"verifying {shown(options.bundle)}"):
            result = verify(options.bundle, checkpoint, frames)
    except BundleCorruptError as error:  # here no bad input, but the answer
        raise VerificationError(str(error)) from error
    fidelity = result.fidelity.as_json() if result.fidelity else None
    lines = [f"{options.bundle}: {result.files} files unaltered, every engine runs"]
    if fidelity:
        lines += [f"compared with transformers in float32: {result.images} images, {fidelity['positions']} tokens"]
        lines += [f"  {name:<24}{fidelity[name]}" for name in fidelity if name != "positions"]
    else:
        lines += [f"not compared with transformers: {result.not_compared}"]
    document = {"bundle": str(options.bundle), "files": result.files, "fidelity": fidelity}
    reasons = {"not_compared": result.not_compared, "complaints": result.complaints}
    _print_result(options, "\n".join(lines), {**document, **reasons})
    if options.record and result.fidelity:
        record_fidelity(options.bundle, result.fidelity)
    if result.complaints:
        raise VerificationError(
            f"{options.bundle} is not the model it was made from: {'; '.join(result.complaints)}; "
            "rebuild it, or choose a recipe that keeps more"
        )
    if checkpoint and result.not_compared:  # or a script would take what was never asked for a yes
        kind = MissingDependencyError if isinstance(checkpoint, DirectoryCheckpoint) else CheckpointError
        raise kind(f"not compared with {options.checkpoint}: {result.not_compared}")
    if options.record and not result.fidelity:
        raise VerificationError(f"there is nothing to record: {result.not_compared}")


def _sensitivity(options: argparse.Namespace) -> None:
    named = options.quantizations.split(",") if options.quantizations else ()
    quantizations = tuple(quantization_from_text(text) for text in named) or DEFAULT_QUANTIZATIONS
    study = Study(options.checkpoint, options.scenes, options.block_groups)
    images, groups = open_images(options.images), study.groups()
    plans = combinations(groups, [t for t in quantizations if t.bits in (3, 4)] or quantizations, options.combinations)
    experiments = [*one_at_a_time(groups, quantizations), *whole_components(groups, quantizations), *plans]
    journal = study.journal(options.out, images)
    here, there = partial(in_processes, processes=options.processes), partial(on_ray, address=options.ray)
    run_experiments(study, experiments, images, journal, there if options.ray else here)
    table = sensitivity_table(journal, groups, quantizations)
    text = f"by how much unforced tokens move, in nats a thousand:\n\n{table}"
    _print_result(options, text, as_json(journal, groups, quantizations))


def _load_images(path: Path) -> list[NDArray[np.uint8]]:
    with open_source(str(path)) as source:
        images = list(itertools.islice(source.images(), _MOST_IMAGES))
    if not images:
        raise SourceError(f"{path} holds no image that can be read; give another --images, or leave it out")
    return images


def _print_result(options: argparse.Namespace, text: str, document: Mapping[str, object]) -> None:
    print(json.dumps(document) if options.json else text)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "plan": _plan,
    "build": _build,
    "calibrate": _calibrate,
    "verify": _verify,
    "sensitivity": _sensitivity,
}
