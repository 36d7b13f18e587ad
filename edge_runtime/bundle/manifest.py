"""What ``bundle.json`` says, as frozen dataclasses; reads no file, and believes what it is given.

``manifest_reading`` makes them of text, and checks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
    products: str | None = None  # method by which INT8 rounds what attention in the encoder multiplies

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
    memory_plan: Mapping[str, int]  # bytes by item, as planned
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
