"""Reads a manifest from its text, and refuses one that was altered or contradicts itself.

Whatever is wrong raises a :class:`BundleError` that names the mending command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

from edge_runtime.bundle.manifest import (
    BUILD_COMMAND,
    DEEPSTACK,
    FITS,
    MANIFEST_NAME,
    MROPE_ORDERS,
    OVERVIEWS,
    PRECISIONS,
    ROLES,
    ROTARY_SCALINGS,
    SCHEMA_VERSION,
    TASKS,
    TENSOR_DTYPES,
    TILE_RULES,
    Component,
    FileEntry,
    ImageSpec,
    Manifest,
    ModelSpec,
    NativeImage,
    PixelSpec,
    PositionSpec,
    PromptSpec,
    SingleImage,
    TiledImage,
    embedding_rows,
    sha256_of_document,
)
from edge_runtime.errors import BundleCorruptError, BundleVersionError
from edge_runtime.memory.footprint import FOOTPRINTS
from edge_runtime.typed_json import MismatchError, dataclass_from_json

_LONGEST_EDGE = 4096  # pixels; transformers resizes no image to more


def manifest_from_json(text: str) -> Manifest:
    """Inverse of :func:`edge_runtime.bundle.manifest.manifest_to_json`.

    Raises:
        BundleVersionError: the manifest is of a newer schema than this runtime, or of an older one.
        BundleCorruptError: it is not a manifest, or contradicts itself.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{MANIFEST_NAME} is not JSON ({error}); rebuild it: {BUILD_COMMAND}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or version < 1:
        raise BundleCorruptError(
            f"this {MANIFEST_NAME} is not an engine bundle's manifest (no schema_version); build one: {BUILD_COMMAND}"
        )
    if version > SCHEMA_VERSION:
        raise BundleVersionError(
            f"the bundle has schema version {version}, and this runtime reads up to {SCHEMA_VERSION}; "
            "update it, in its repository: git pull && pip install --upgrade ."
        )
    if version < SCHEMA_VERSION:
        raise BundleVersionError(
            f"the bundle has schema version {version}, which this runtime no longer reads; build it anew: "
            f"{BUILD_COMMAND}"
        )
    if document.get("sha256") != sha256_of_document(document):
        raise BundleCorruptError(
            f"{MANIFEST_NAME} was altered: its text does not have the sha256 that it says; copy the bundle again, or "
            f"rebuild it: {BUILD_COMMAND}"
        )
    try:
        manifest = dataclass_from_json(document, Manifest)
        _check_consistent(manifest)
    except MismatchError as error:
        raise BundleCorruptError(f"{MANIFEST_NAME}: {error}; rebuild it: {BUILD_COMMAND}") from error
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    _require(manifest.task in TASKS, f"task is {manifest.task[:60]!r}, and this runtime does {', '.join(TASKS)}")
    _check_model(manifest.model)
    _check_pixels(manifest.image.pixels)
    _CHECK_IMAGE[manifest.image.kind](manifest.image)
    _check_tags(manifest.image, manifest.model)
    _check_prompt(manifest.prompt)
    _require(0 < manifest.coordinates.steps <= 10_000, f"coordinates.steps is {manifest.coordinates.steps}")
    footprint = FOOTPRINTS.get(manifest.target)  # whoever opens a bundle for an unknown target says that it is one
    for component in manifest.components:
        _check_component(component, footprint.resident_per_stored if footprint else PRECISIONS)
    _check_chain(manifest)
    _check_sizes(manifest)
    _check_positions(manifest.positions, manifest.model)
    layers = manifest.model.num_layers
    _require(len(manifest.state) == layers, f"state says what {len(manifest.state)} layers keep, of {layers}")
    for entry in manifest.files:
        _check_file(entry)
    for name in ("context_tokens", "step_tokens"):
        tokens = str(manifest.build.get(name, manifest.model.max_positions))
        _require(
            tokens.isdecimal() and int(tokens) > 0, f"build.{name} is {tokens[:60]!r}, expected a number of tokens"
        )
    _require(all(size >= 0 for size in manifest.memory_plan.values()), "memory plan holds a negative size")


def _check_model(model: ModelSpec) -> None:
    for field in fields(model):
        value = getattr(model, field.name)
        if field.name.endswith("_id"):
            _require(0 <= value < model.vocab_size, f"model.{field.name} is {value}, outside the vocabulary")
        elif isinstance(value, int):
            _require(0 < value < 2**31, f"model.{field.name} is {value}, expected a positive size")
    # The grammar's library holds every token in memory, and ends the process where that fails.
    _require(model.vocab_size <= 2**20, f"model.vocab_size is {model.vocab_size}, and the largest known are 2 ** 18")
    _require(bool(model.eos_token_ids), "model.eos_token_ids is empty")
    _require(all(0 <= i < model.vocab_size for i in model.eos_token_ids), "model.eos_token_ids leave the vocabulary")
    _require(model.num_heads % model.num_kv_heads == 0, "model.num_heads is no multiple of num_kv_heads")


def _check_pixels(pixels: PixelSpec) -> None:
    where = "image.pixels"
    _require(0 < pixels.height <= 8192 and 0 < pixels.width <= 8192, f"{where}: height and width must be 1 to 8192")
    _require(
        pixels.resample in (1, 2, 3),
        f"{where}.resample is {pixels.resample}, expected 1 (Lanczos), 2 (bilinear) or 3 (bicubic)",
    )
    _require(
        pixels.rescale_factor > 0, f"{where}.rescale_factor is {pixels.rescale_factor}, expected a positive number"
    )
    _require(len(pixels.mean) == 3 and len(pixels.std) == 3, f"{where}: mean and std must have three channels")
    _require(all(s > 0 for s in pixels.std), f"{where}.std must be positive")


def _check_single(image: SingleImage) -> None:
    _require(image.fit in FITS, f"image.fit is {image.fit[:60]!r}, expected {', '.join(FITS)}")
    _check_fill(image.fill)
    _require(0 < image.tokens < 2**20, f"image.tokens is {image.tokens}")
    if image.fit == "crop":
        least = max(image.pixels.height, image.pixels.width)
        _require(
            image.shortest_edge is not None and least <= image.shortest_edge <= 8192,
            f"image.shortest_edge is {image.shortest_edge}, smaller than the crop or absurd",
        )


def _check_tiles(image: TiledImage) -> None:
    _require(image.overview in OVERVIEWS, f"image.overview is {image.overview[:60]!r}, expected {', '.join(OVERVIEWS)}")
    _check_fill(image.fill)
    _require(bool(image.grids), "image.grids is empty")
    _require(
        all(0 < n <= 64 for grid in image.grids for n in grid), "image.grids has a grid of no tiles, or absurdly many"
    )
    _require(all(0 < n <= 4096 for n in image.tile_tokens), f"image.tile_tokens is {image.tile_tokens}")
    _require(all(0 < n <= 65536 for frame in image.frames for n in frame), "image.frames has a frame of no pixels")
    rows, columns = image.tile_tokens
    _require(rows * columns <= image.max_tokens < 2**20, f"image.max_tokens is {image.max_tokens}")
    _require(image.rule in TILE_RULES, f"image.rule is {image.rule[:60]!r}, expected {', '.join(TILE_RULES)}")
    _require(
        (image.rule == "longest_edge") == (image.longest_edge is not None)
        and 0 < (image.longest_edge or 1) <= _LONGEST_EDGE,
        f"image.longest_edge is {image.longest_edge}, of the rule {image.rule}",
    )
    if image.tags is not None:
        tagged = image.tags.before_tile
        _require(
            not image.has_newlines and image.overview == "last",
            "image.tags are of grids whose overview comes last, and which have no newlines",
        )
        _require(
            all(rows <= len(tagged) and columns <= min(map(len, tagged)) for rows, columns in image.grids),
            "image.tags.before_tile lacks a tile of the largest grid",
        )


def _check_tags(image: ImageSpec, model: ModelSpec) -> None:
    tags = image.tags if isinstance(image, TiledImage) else None
    if tags is not None:
        texts = (*(t for row in tags.before_tile for t in row), tags.before_overview, tags.before_single, tags.behind)
        _require(
            all(0 <= token < model.vocab_size for text in texts for token in text),
            "image.tags leave the vocabulary",
        )


def _check_native(image: NativeImage) -> None:
    _check_fill(image.fill)
    _require(0 < image.merge <= 16, f"image.merge is {image.merge}")
    _require(
        0 < image.least_pixels <= image.most_pixels < 2**31,
        f"image.least_pixels is {image.least_pixels}, and image.most_pixels {image.most_pixels}",
    )
    _require(bool(image.grids), "image.grids is empty")
    _require(all(0 < n <= 4096 for grid in image.grids for n in grid), "image.grids has a grid of no tokens, or absurd")
    _require(image.max_tokens < 2**20, f"image.grids has a grid of {image.max_tokens} tokens")
    _require(
        0 < image.multiple <= 64 and all(n % image.multiple == 0 for grid in image.grids for n in grid),
        f"image.multiple is {image.multiple}, and image.grids has other sides",
    )


_CHECK_IMAGE: Mapping[str, Callable[[Any], None]] = {
    "single": _check_single,
    "tiles": _check_tiles,
    "native": _check_native,
}


def _check_fill(fill: Collection[int]) -> None:
    _require(len(fill) == 3 and all(0 <= value <= 255 for value in fill), "image.fill is no colour (RGB, 0 to 255)")


def _check_prompt(prompt: PromptSpec) -> None:
    images = sum(segment.text is None for segment in prompt.segments)
    _require(images == 1, f"prompt has {images} images among its segments, expected one")


def _check_positions(positions: PositionSpec, model: ModelSpec) -> None:
    rotary = positions.rotary
    _require(rotary.scaling in ROTARY_SCALINGS, f"positions.rotary.scaling is {rotary.scaling[:60]!r}")
    _require(0 < rotary.dim <= model.head_dim and rotary.dim % 2 == 0, f"positions.rotary.dim is {rotary.dim}")
    numbers = (rotary.theta, rotary.factor, rotary.low_freq_factor, rotary.high_freq_factor)
    _require(min(*numbers, rotary.original_max_positions) > 0, "positions.rotary holds a number that is not positive")
    _require(
        rotary.scaling != "llama3" or rotary.low_freq_factor < rotary.high_freq_factor,
        "positions.rotary: low_freq_factor is not below high_freq_factor",
    )
    sections = positions.sections
    if positions.kind == "sequential":
        _require(not sections, "positions.sections are of mrope alone")
        return
    _require(positions.order in MROPE_ORDERS, f"positions.order is {positions.order[:60]!r}")
    _require(
        len(sections) == 3 and min(sections) > 0 and sum(sections) == rotary.dim // 2,
        f"positions.sections are {sections[:6]}, expected three that make {rotary.dim // 2} pairs",
    )
    if positions.order == "interleaved":
        _require(max(sections[1:]) * 3 <= rotary.dim // 2, f"positions.sections are {sections}, which don't interleave")


def _check_component(component: Component, precisions: Collection[str]) -> None:
    name, specs = component.name, (*component.inputs, *component.outputs)
    _require(component.role in ROLES, f"component {name!r} has the unknown role {component.role!r}")
    _require(
        component.precision in precisions,
        f"component {name!r} has precision {component.precision!r}, and its target has {', '.join(precisions)}",
    )
    _require(bool(component.files), f"component {name!r} has no files")
    _require(
        0 <= component.float16_bytes <= component.size_bytes,
        f"component {name!r} has float16_bytes {component.float16_bytes}, of {component.size_bytes} bytes in all",
    )
    _require(all(spec.dtype in TENSOR_DTYPES for spec in specs), f"component {name!r} has tensors of an unknown type")
    has_tensors = bool(component.inputs and component.outputs)
    _require(has_tensors or component.role == "embedding", f"component {name!r} has no inputs, or no outputs")


def _check_chain(manifest: Manifest) -> None:
    """See whether the components are all there, and fit to each other and to what goes in."""
    for role in ROLES:
        count = sum(c.role == role for c in manifest.components)
        may_be_split = role in ("decoder", "lm_head")
        _require(count == 1 or (may_be_split and count > 0), f"there are {count} components of role {role}")
    image, found = manifest.image, manifest.component("vision_encoder").inputs[0].shape
    pixels = image.pixels
    is_seen = (
        found[-1:] == (image.patch_numbers,)
        if isinstance(image, NativeImage)
        else found[-2:] == (pixels.height, pixels.width)
    )
    _require(is_seen, f"the vision encoder sees {found}, not image.pixels")
    next_layer = 0
    for group in manifest.decoder_groups:
        first, end = group.layers or (-1, -1)
        _require(
            first == next_layer and end > first,
            f"decoder {group.name!r} has layers {group.layers}, expected to begin at {next_layer}",
        )
        next_layer = end
    _require(
        next_layer == manifest.model.num_layers,
        f"the decoders cover {next_layer} of {manifest.model.num_layers} layers",
    )


def _check_sizes(manifest: Manifest) -> None:
    """See whether the tensors have the sizes that the model is said to have."""
    model, connector = manifest.model, manifest.component("connector")
    hidden = (model.hidden_size,)
    _check_ends(connector, "features", _sizes(manifest.component("vision_encoder"), "features"))
    image = manifest.image
    rows = () if isinstance(image, NativeImage) else (embedding_rows(image),)  # or as many as a frame takes
    _check_ends(connector, "image_embeddings", (*rows, *hidden))
    _check_deepstack(manifest)
    for group in manifest.decoder_groups:
        _check_ends(group, "hidden_states", hidden)
        _check_ends(group, "hidden_states_out", hidden)
        for layer in range(*(group.layers or ())):
            for past in ("past_key", "past_value"):
                _check_ends(group, f"{past}.{layer}", (model.num_kv_heads, model.head_dim))
    for head in manifest.lm_heads:
        _check_ends(head, "hidden_states", hidden)
    words = sum(_sizes(head, "logits")[-1] for head in manifest.lm_heads)
    _require(words == model.vocab_size, f"model.vocab_size is {model.vocab_size}, and the LM head has {words} rows")


def _check_deepstack(manifest: Manifest) -> None:
    """See whether what the vision encoder puts out for decoder layers is what they take, each in its own group."""
    encoder, taken = manifest.component("vision_encoder"), []
    for group in manifest.decoder_groups:
        mine = [spec.name for spec in group.inputs if spec.name.startswith(DEEPSTACK)]
        within = {f"{DEEPSTACK}{layer}" for layer in range(*(group.layers or ()))}
        _require(within.issuperset(mine), f"component {group.name!r} takes {', '.join(mine)}, of layers that it lacks")
        taken += mine
    given = manifest.deepstack
    _require(sorted(taken) == sorted(given), f"the vision encoder gives {given}, and the decoder takes {tuple(taken)}")
    _require(not given or isinstance(manifest.image, NativeImage), f"{given[:1]} is of an image that is not native")
    for name in given:
        _check_ends(encoder, name, (manifest.model.hidden_size,))


def _check_ends(component: Component, name: str, expected: tuple[int, ...]) -> None:
    found = _sizes(component, name)
    _require(
        found[-len(expected) :] == expected,
        f"{name} of component {component.name!r} is of the sizes {found}, and the model's are {expected}",
    )


def _sizes(component: Component, name: str) -> tuple[int, ...]:
    """A tensor's dimensions, without those that are free: tokens and capacity."""
    shapes = [spec.shape for spec in (*component.inputs, *component.outputs) if spec.name == name]
    sizes = tuple(size for size in (shapes or [()])[0] if isinstance(size, int))
    _require(bool(sizes), f"component {component.name!r} has no tensor {name!r}")
    return sizes


def _check_file(entry: FileEntry) -> None:
    pure = PurePosixPath(entry.path)
    inside = entry.path and not pure.is_absolute() and ".." not in pure.parts and "\\" not in entry.path
    _require(bool(inside), f"file {entry.path[:60]!r} is not inside the bundle")
    _require(entry.size_bytes >= 0, f"file {entry.path!r} has {entry.size_bytes} bytes")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise MismatchError(otherwise)
