"""What ``bundle.json`` says, as frozen dataclasses that do not contradict themselves; touches no other file.

What is not a manifest, or not a sound one, raises a :class:`BundleError` that names the mending command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from edge_runtime.errors import BundleCorruptError, BundleVersionError
from edge_runtime.typed_json import MismatchError, dataclass_from_json

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
COMPONENT_KINDS = ("vision_encoder", "connector", "embedding", "decoder", "lm_head")
TENSOR_DTYPES = ("float32", "float16", "int8", "int32", "int64")
PRECISIONS = ("float16", "int8", "int4", "nf4")

BUILD_COMMAND = "edge-engines build CHECKPOINT --recipe RECIPE --target onnxruntime --out BUNDLE"


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of the language model and its special tokens."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    num_image_tokens: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int


@dataclass(frozen=True)
class PreprocessingSpec:
    """How a frame becomes the pixel tensor; the numbers of the Hugging Face image processor."""

    height: int  # pixels of the tensor
    width: int
    resize: str  # "exact", or "shortest_edge" followed by a centre crop
    shortest_edge: int | None
    resample: int  # Pillow's number: 2 bilinear, 3 bicubic
    rescale_factor: float
    mean: tuple[float, ...]  # (3,), of RGB
    std: tuple[float, ...]  # (3,), of RGB


@dataclass(frozen=True)
class PromptSpec:
    """Text around the image; everything before it is prefilled once."""

    before_image: str
    after_image: str


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle, as it was written."""

    path: str  # relative to the bundle, with forward slashes
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a component; a free dimension is a string."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Component:
    """One engine of the bundle, its files and the precision it was built in."""

    name: str
    kind: str  # one of COMPONENT_KINDS
    layers: tuple[int, int] | None  # [first, end) of a decoder group
    precision: str  # one of PRECISIONS, the coarsest of its matrices'
    block_size: int | None
    method: str  # "cast", "rtn", ..., or "mixed"
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    float32_nodes: tuple[str, ...] = ()  # of a float16 engine: where float16 would overflow
    float16_bytes: int = 0  # of the matrices that are float16 where others are coarser

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the component."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of what the bundle was made from; None where none was used."""

    checkpoint: str | None
    recipe: str | None
    calibration: str | None


@dataclass(frozen=True)
class Manifest:
    """Everything ``bundle.json`` says."""

    schema_version: int
    name: str
    family: str
    target: str
    recipe: str
    model: ModelSpec
    preprocessing: PreprocessingSpec
    prompt: PromptSpec
    components: tuple[Component, ...]
    tokenizer: FileEntry
    ledger: Mapping[str, int]  # bytes by item, as planned
    build: Mapping[str, Any]
    hashes: Hashes
    fidelity: Mapping[str, Any] | None

    def component(self, kind: str) -> Component:
        """The only component of ``kind``, which is neither "decoder" nor "lm_head"."""
        (component,) = (c for c in self.components if c.kind == kind)
        return component

    @property
    def decoder_groups(self) -> tuple[Component, ...]:
        """Decoder components in the order in which hidden states pass through them."""
        groups = [c for c in self.components if c.kind == "decoder"]
        return tuple(sorted(groups, key=lambda c: c.layers or (0, 0)))

    @property
    def lm_heads(self) -> tuple[Component, ...]:
        """The parts of the LM head, in the order of the vocabulary."""
        return tuple(sorted((c for c in self.components if c.kind == "lm_head"), key=lambda c: c.name))

    @property
    def context_tokens(self) -> int:
        """Positions that prompt, image and answer may take: the model's, or fewer where its engines have fewer."""
        return min(self.model.max_positions, int(self.build.get("context_tokens", self.model.max_positions)))

    @property
    def step_tokens(self) -> int:
        """Tokens that its engines run in one step at most."""
        return int(self.build.get("step_tokens", self.model.max_positions))

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the bundle holds beside the manifest."""
        return (self.tokenizer, *(file for component in self.components for file in component.files))

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def manifest_to_json(manifest: Manifest) -> str:
    """The text of ``bundle.json``."""
    return json.dumps(asdict(manifest), indent=2) + "\n"


def manifest_from_json(text: str) -> Manifest:
    """Inverse of :func:`manifest_to_json`.

    Raises:
        BundleVersionError: the manifest is newer than this runtime.
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
            "update it: pip install --upgrade edge-runtime"
        )
    try:
        manifest = dataclass_from_json(document, Manifest)
        _check_consistent(manifest)
    except MismatchError as error:
        raise BundleCorruptError(f"{MANIFEST_NAME}: {error}; rebuild it: {BUILD_COMMAND}") from error
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    _check_model(manifest.model)
    _check_preprocessing(manifest.preprocessing)
    for component in manifest.components:
        _check_component(component)
    _check_chain(manifest)
    for entry in manifest.files:
        _check_file(entry)
    for name in ("context_tokens", "step_tokens"):
        tokens = str(manifest.build.get(name, manifest.model.max_positions))
        _require(
            tokens.isdecimal() and int(tokens) > 0, f"build.{name} is {tokens[:60]!r}, expected a number of tokens"
        )
    _require(all(size >= 0 for size in manifest.ledger.values()), "ledger holds a negative size")


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


def _check_preprocessing(pre: PreprocessingSpec) -> None:
    _require(0 < pre.height <= 8192 and 0 < pre.width <= 8192, "preprocessing.height and width must be 1 to 8192")
    _require(pre.resize in ("exact", "shortest_edge"), f"preprocessing.resize is {pre.resize!r}")
    if pre.resize == "shortest_edge":
        _require(
            pre.shortest_edge is not None and max(pre.height, pre.width) <= pre.shortest_edge <= 8192,
            f"preprocessing.shortest_edge is {pre.shortest_edge}, smaller than the crop or absurd",
        )
    _require(pre.resample in (2, 3), f"preprocessing.resample is {pre.resample}, expected 2 (bilinear) or 3 (bicubic)")
    _require(len(pre.mean) == 3 and len(pre.std) == 3, "preprocessing.mean and std must have three channels")
    _require(all(s > 0 for s in pre.std), "preprocessing.std must be positive")


def _check_component(component: Component) -> None:
    name, specs = component.name, (*component.inputs, *component.outputs)
    _require(component.kind in COMPONENT_KINDS, f"component {name!r} is of unknown kind {component.kind!r}")
    _require(component.precision in PRECISIONS, f"component {name!r} has precision {component.precision!r}")
    _require(bool(component.files), f"component {name!r} has no files")
    _require(all(spec.dtype in TENSOR_DTYPES for spec in specs), f"component {name!r} has tensors of an unknown type")
    has_tensors = bool(component.inputs and component.outputs)
    _require(has_tensors or component.kind == "embedding", f"component {name!r} has no inputs, or no outputs")


def _check_chain(manifest: Manifest) -> None:
    """See whether the components are all there, and fit to each other and to what goes in."""
    for kind in COMPONENT_KINDS:
        count = sum(c.kind == kind for c in manifest.components)
        may_be_split = kind in ("decoder", "lm_head")
        _require(count == 1 or (may_be_split and count > 0), f"there are {count} components of kind {kind}")
    pre, image = manifest.preprocessing, manifest.component("vision_encoder").inputs[0]
    _require(image.shape[-2:] == (pre.height, pre.width), f"the vision encoder sees {image.shape}, not preprocessing's")
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


def _check_file(entry: FileEntry) -> None:
    pure = PurePosixPath(entry.path)
    inside = entry.path and not pure.is_absolute() and ".." not in pure.parts and "\\" not in entry.path
    _require(bool(inside), f"file {entry.path[:60]!r} is not inside the bundle")
    _require(entry.size_bytes >= 0, f"file {entry.path!r} has {entry.size_bytes} bytes")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise MismatchError(otherwise)
