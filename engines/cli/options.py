"""Which options of ``edge-engines`` have nothing to act on; refuses them, where a build would ignore what was meant."""

from __future__ import annotations

import argparse

from edge_runtime.errors import UsageError
from engines.quantize.recipe import PrecisionPlan
from engines.targets import TARGETS, target_kind

_OF_TARGETS = {
    "compute_capabilities": "--compute-capability",
    "timing_cache": "--timing-cache",
    "int8_route": "--int8-route",
}
_OF_CHECKPOINTS = {
    **_OF_TARGETS,
    "target": "--target",
    "budget": "--budget",
    "context": "--context",
    "fit": "--fit",
    "schema": "--schema",
    "frames": "--frame",
    "tiles": "--tiles",
    "measurements": "--measurements",
    "calibration_cache": "--calibration-cache",
}


def check_build_options(options: argparse.Namespace, target: str, recipe: PrecisionPlan) -> None:
    """Refuse what neither ``target`` nor ``recipe`` can make anything of.

    Raises:
        RecipeError: there is no such target.
        UsageError: an option has nothing to act on; says which, and what would know it.
    """
    kind = target_kind(target)
    for name, flag in _OF_TARGETS.items():
        if getattr(options, name) is not None and name not in kind.options:
            knowing = " and ".join(other for other, its in TARGETS.items() if name in its.options)
            raise UsageError(f"{flag} means nothing to the target {target}; leave it out, or build for {knowing}")
    check_route_option(options, recipe)
    if options.images and not (recipe.has_int8 or recipe.is_calibrated or kind.computes_float16):
        raise UsageError(
            f"--images mean nothing to the recipe {recipe.recipe} for {target}, which calibrates nothing; leave them "
            "out, or choose a recipe with INT8, AWQ or GPTQ"
        )
    finds_ranges = any(precision.int8 for precision in recipe.components.values())  # a cache's are always found anew
    if options.calibration_cache and not (finds_ranges or (options.images and kind.computes_float16)):
        raise UsageError(
            f"--calibration-cache means nothing to the recipe {recipe.recipe}, which finds no ranges; leave it out, or "
            "choose a recipe with INT8"
        )
    for given, flag in ((options.per_tensor, "--per-tensor"), (options.preprocessing, "--preprocessing")):
        if given:
            raise UsageError(f"{flag} means nothing without --family cnn; leave it out")


def check_route_option(options: argparse.Namespace, recipe: PrecisionPlan) -> None:
    """Refuse a route for INT8 where there is none.

    Raises:
        UsageError: one was given.
    """
    if options.int8_route and not recipe.has_int8:
        raise UsageError(f"--int8-route means nothing to the recipe {recipe.recipe}, which has no INT8; leave it out")


def check_recipe_options(options: argparse.Namespace) -> None:
    """Refuse measurements where no recipe is to be chosen by them.

    Raises:
        UsageError: there are some.
    """
    if options.measurements and options.recipe != "auto":
        raise UsageError(f"--measurements mean nothing to the recipe {options.recipe}; ask for --recipe auto")


def check_classifier_options(options: argparse.Namespace) -> None:
    """Refuse what is said of checkpoints only.

    Raises:
        UsageError: there is such an option.
    """
    given = [flag for name, flag in _OF_CHECKPOINTS.items() if getattr(options, name) is not None]
    if given:
        raise UsageError(f"{', '.join(given)} mean nothing with --family cnn, whose target is any ONNX runtime")
