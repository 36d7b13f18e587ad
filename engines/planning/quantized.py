"""A recipe beside a checkpoint that is quantized already: what stays as it is, and what is at odds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edge_runtime.errors import RecipeError
from engines.checkpoint import Checkpoint
from engines.families.base import Part
from engines.quantize import QUANTIZERS
from engines.quantize.recipe import Precision, PrecisionPlan
from engines.quantized_checkpoint import QuantizedCheckpoint


def keep_quantized(
    precisions: PrecisionPlan, checkpoint: Checkpoint, parts: Iterable[Part]
) -> tuple[PrecisionPlan, tuple[str, ...]]:
    """The recipe with the checkpoint's own precision where that has 4-bit codes and the recipe wants INT4.

    Also what a person should know: which matrices stay, which are widened, and which are rounded here.

    Raises:
        RecipeError: the recipe wants what would round codes a second time.
        CheckpointError: some matrices of a stack are quantized and others are not, or what is stored is malformed.
    """
    if not isinstance(checkpoint, QuantizedCheckpoint):
        return precisions, ()
    components = dict(precisions.components)
    kept: list[str] = []
    widened: list[str] = []
    rounded: list[str] = []
    coarser: list[str] = []
    for part in parts:
        precision = precisions.components[part.role]
        for stack, names in part.matrices.items():
            wanted, found = precision.of(stack), [name for name in names if name in checkpoint.quantized]
            if not found:
                if wanted.dtype != "float16":
                    rounded.append(stack)
                continue
            if len(found) < len(names):
                [other, *_] = set(names) - set(found)
                raise RecipeError(
                    f"{checkpoint.name} has {found[0]} in 4 bits by {checkpoint.method}, and {other} not; engines "
                    "stack the two to one matrix: take the model that it was quantized from"
                )
            if wanted.dtype == "float16":
                widened.append(stack)
                continue
            own = _own_precision(checkpoint, found)
            _check_at_one(precisions, part.role, stack, wanted, own, checkpoint)
            kept.append(stack)
            coarser += [stack] if any(map(checkpoint.has_wide_scales, found)) else []
            before = components[part.role]
            components[part.role] = replace(before, exceptions=((stack, own), *before.exceptions))
    notes = [
        (kept, f"in 4 bits by {checkpoint.method}, stay as the checkpoint has them"),
        (coarser, "have scales in float32, which are rounded to float16: by 2^-11 of each, or less"),
        (widened, f"in 4 bits by {checkpoint.method}, are widened to float16, as the recipe {precisions.recipe} says"),
        (rounded, f"that the checkpoint left wide, are rounded here, as the recipe {precisions.recipe} says"),
    ]
    said = tuple(f"{len(names)} matrices {what} ({names[0]}, ...)" for names, what in notes if names)
    return replace(precisions, components=components), said


def _own_precision(checkpoint: QuantizedCheckpoint, names: Sequence[str]) -> Precision:
    block_size = min(map(checkpoint.block_size, names))
    has_zeros = any(map(checkpoint.has_zeros, names))
    return Precision("int4", checkpoint.method, block_size, is_stored=True, has_zeros=has_zeros)


def _check_at_one(
    precisions: PrecisionPlan,
    role: str,
    stack: str,
    wanted: Precision,
    own: Precision,
    checkpoint: QuantizedCheckpoint,
) -> None:
    """Refuse a recipe that cannot have what the checkpoint has."""
    if wanted.dtype != "int4" or wanted.method not in QUANTIZERS:
        raise RecipeError(
            f"the recipe {precisions.recipe} wants {stack} in {wanted.dtype} by {wanted.method}, and {checkpoint.name} "
            f"has it in 4 bits by {checkpoint.method} already, and rounding again only loses: choose a recipe "
            f"with {role} in float16 or in int4 by {' or '.join(QUANTIZERS)}, as asymmetric-int4, or take the model "
            "that it was quantized from"
        )
    if role == "embedding" and own.has_zeros:
        raise RecipeError(
            f"the recipe {precisions.recipe} wants {stack} in int4, and {checkpoint.name} has it with zero points, "
            "which an embedding of 4 bits has no place for; choose a recipe with the embedding in float16"
        )
