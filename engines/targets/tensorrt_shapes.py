"""Which shapes TensorRT's engines are built for, and what they will weigh; needs no TensorRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edge_runtime.bundle.manifest import TensorSpec
from engines.families.base import Part
from engines.layers.lowering.tensorrt import keeps_int4
from engines.layers.lowering.zero_points import offset_bytes
from engines.quantize.formats.int4 import block_size_for
from engines.quantize.recipe import FLOAT16, Precision
from engines.targets.base import TargetOptions, stored_bytes
from engines.targets.tensorrt_compiler import Profile, Shape

# Tegra may refuse one large contiguous request: an LM head of 128,000 words would ask for 1 GB.
LARGEST_HEAD_PARAMETERS = 1 << 28

CACHE_BUCKET_TOKENS = 256  # the cache is read in such steps


def profiles_of(
    kind: str, precision: Precision, inputs: Sequence[TensorSpec], options: TargetOptions, *, shares_weights: bool
) -> list[Profile]:
    """The shapes that a component's engine is built for; none where nothing is free.

    A decoder's first profile is prefill's (any number of tokens), its second decode's (one token), unless that would
    store its weights twice: see :func:`_count_of_profiles`. An LM head sees one row; a vision encoder of pictures of
    their own shape has one profile for all, and is best at the largest.
    """
    if kind in ("vision_encoder", "connector"):
        free = {"P": (min(options.patches, default=1), *(max(options.patches, default=1),) * 2)}
        ranges = {spec.name: _ranges(spec, free) for spec in inputs if "P" in spec.shape}
        return [ranges] if ranges else []
    prefill = (1, options.step_tokens, options.step_tokens)
    decode = (1, 1, 1)
    context = in_buckets(options.context_tokens)
    likely = min(in_buckets(options.step_tokens) + CACHE_BUCKET_TOKENS, context)
    steps = {
        "decoder": [(prefill, CACHE_BUCKET_TOKENS), (decode, likely)],
        "lm_head": [(decode, CACHE_BUCKET_TOKENS)],
    }.get(kind, [])
    return [
        {
            spec.name: _ranges(spec, {"T": tokens, "C": (1, min(cached, context), context), "P": (1, context, context)})
            for spec in inputs
            if any(isinstance(size, str) for size in spec.shape)
        }
        for tokens, cached in steps[: _count_of_profiles(kind, precision, shares_weights)]
    ]


def planned_bytes(part: Part, precision: Precision, *, shares_weights: bool) -> int:
    """What an engine will weigh: its tensors, and the code that TensorRT puts around them, once a profile."""
    if part.emit is None:
        return stored_bytes(part, precision)
    base_bytes, bytes_per_matrix = _CODE_BYTES[part.role]
    matrices = sum(parameter.is_matrix for parameter in part.parameters.values())
    profiles = _count_of_profiles(part.role, precision, shares_weights)
    return stored_bytes(part, precision, _matrix_bytes) + profiles * (base_bytes + bytes_per_matrix * matrices)


def _count_of_profiles(kind: str, precision: Precision, shares_weights: bool) -> int:
    """Two for a decoder, whose steps are of one row but for the first, where that does not store its weights twice.

    TensorRT lays weights out for the kernels of each profile, and keeps to one layout where it is asked to (see
    ``make_profile``); TensorRT for RTX does not hear of it: of the reference inspector's decoder, 11 MB in float16, it
    makes 21 MB. Weights of 4 bits are stored once by both.
    """
    return 2 if kind == "decoder" and (shares_weights or all(p.dtype == "int4" for p in precision.every)) else 1


def _matrix_bytes(precision: Precision, rows: int, columns: int) -> int:
    """Those of a matrix that TensorRT takes as it is, or of what is written out for it."""
    block_size = precision.block_size and block_size_for(columns, precision.block_size)
    written = precision if block_size is None or keeps_int4(columns, block_size) else FLOAT16
    offsets = offset_bytes(rows, columns, block_size) if block_size and written.has_zeros else 0
    return replace(written, has_zeros=False).matrix_bytes(rows, columns) + offsets


# Measured with TensorRT for RTX 1.7.1, on models of 9 million to 13 billion parameters; of any size beyond a few
# megabytes of weights it matters little.
_CODE_BYTES = {
    "vision_encoder": (1_600_000, 23_000),
    "connector": (100_000, 0),
    "decoder": (2_000_000, 115_000),
    "lm_head": (300_000, 0),
}


def _ranges(spec: TensorSpec, free: Mapping[str, tuple[int, ...]]) -> tuple[Shape, Shape, Shape]:
    smallest, likeliest, largest = (
        tuple(free[size][i] if isinstance(size, str) else size for size in spec.shape) for i in range(3)
    )
    return smallest, likeliest, largest


def in_buckets(tokens: int) -> int:
    """So many tokens or a few more, as the cache is read."""
    return -(-tokens // CACHE_BUCKET_TOKENS) * CACHE_BUCKET_TOKENS
