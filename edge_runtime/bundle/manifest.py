"""What ``bundle.json`` says, as frozen dataclasses, and its text; ``validation`` reads and checks such a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_VERSION = 2
MANIFEST_NAME = "bundle.json"
TASKS = ("generate",)
ROLES = ("vision_encoder", "connector", "embedding", "decoder", "lm_head")
TENSOR_DTYPES = ("float32", "float16", "int8", "int32", "int64")
PRECISIONS = ("float16", "int8", "int4", "nf4")
FITS = ("letterbox", "squeeze", "crop")
OVERVIEWS = ("first", "last", "none")
TILE_RULES = ("most_pixels", "nearest_ratio", "longest_edge")
ROTARY_SCALINGS = ("default", "linear", "llama3")
MROPE_ORDERS = ("interleaved", "sectioned")
DEEPSTACK = "deepstack."  # and the number of the decoder layer behind which the tensor joins the hidden states

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
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int


@dataclass(frozen=True)
class PixelSpec:
    """The pixel tensor of the vision encoder: its size, and how 0..255 becomes its numbers, as Hugging Face says it."""

    height: int
    width: int
    resample: int  # Pillow's number: 1 Lanczos, 2 bilinear, 3 bicubic
    rescale_factor: float
    mean: tuple[float, ...]  # (3,), of RGB
    std: tuple[float, ...]  # (3,), of RGB


@dataclass(frozen=True)
class SingleImage:
    """A frame becomes one pixel tensor.

    ``fit`` says how: ``letterbox`` pads it with ``fill`` to the tensor's shape, ``squeeze`` gives up its shape,
    ``crop`` resizes its shortest edge to ``shortest_edge`` pixels and keeps the middle.
    """

    kind: Literal["single"]
    pixels: PixelSpec
    fit: str  # one of FITS
    shortest_edge: int | None  # pixels, of crop
    fill: tuple[int, ...]  # (3,), RGB, of letterbox
    tokens: int  # that the image takes in the prompt

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest image."""
        return self.tokens

    @property
    def max_tensors(self) -> int:
        """Pixel tensors of the largest image."""
        return 1


@dataclass(frozen=True)
class TileTags:
    """Tokens of the text around and between the tiles of an image, as the checkpoint's own tokenizer makes them."""

    before_tile: tuple[tuple[tuple[int, ...], ...], ...]  # by row and column, of the largest grid at least
    before_overview: tuple[int, ...]  # behind the last tile
    before_single: tuple[int, ...]  # before a picture of one tile, and no overview
    behind: tuple[int, ...]  # behind the whole image


@dataclass(frozen=True)
class TiledImage:
    """A frame becomes tiles, and an overview: the whole of it, squeezed to one pixel tensor.

    ``rule`` says in which of ``grids``, and how a frame is fitted to it:

    - ``most_pixels``: the one that keeps most of the frame's pixels. The frame is resized to fit into it and padded
      with ``fill``. Features of all tiles make one map, from which rows and columns of padding are cut; each row of the
      map ends with the newline's embedding, which is the last row that the connector puts out of any tile. How
      LLaVA-NeXT does it (Liu et al. 2024).
    - ``nearest_ratio``: the one whose sides have the nearest ratio; of equals the largest, while the frame has more
      than half of its pixels. The frame is squeezed to it. How InternVL does it (Chen et al. 2024, "How Far Are We to
      GPT-4V?").
    - ``longest_edge``: the frame is resized until its longest edge has ``longest_edge`` pixels, and squeezed to the
      whole tiles that it then touches; where there is no such grid, to that of the nearest ratio. How SmolVLM does it
      (Marafioti et al. 2025).

    By the last two, rows of one tile come after those of another, ``tags`` between them; a grid of one tile has no
    overview, which would be the same.
    """

    kind: Literal["tiles"]
    pixels: PixelSpec  # of one tile
    grids: tuple[tuple[int, int], ...]  # rows and columns of tiles
    overview: str  # one of OVERVIEWS
    fill: tuple[int, ...]  # (3,), RGB
    tile_tokens: tuple[int, int]  # rows and columns of features of one tile
    frames: tuple[tuple[int, int], ...]  # widths and heights that the bundle was built for; none: any
    max_tokens: int  # that an image takes in the prompt at most
    rule: str = "most_pixels"  # one of TILE_RULES
    longest_edge: int | None = None  # pixels, of that rule
    tags: TileTags | None = None  # of the last two rules

    @property
    def has_newlines(self) -> bool:
        """Whether each row of features ends with the newline's embedding."""
        return self.rule == "most_pixels"

    @property
    def max_tensors(self) -> int:
        """Pixel tensors of the largest image."""
        return max(map(self.tensors_of, self.grids))

    @property
    def resized_bytes(self) -> int:
        """Of the largest frame that is resized before it is cut, and of the one that it is resized to."""
        side = max(max(grid) for grid in self.grids) * max(self.pixels.height, self.pixels.width)
        return 0 if self.longest_edge is None else 3 * (self.longest_edge**2 + side**2)

    def tensors_of(self, grid: tuple[int, int]) -> int:
        """Pixel tensors of an image in the ``grid``."""
        tiles = grid[0] * grid[1]
        return tiles + (self.overview != "none" and (tiles > 1 or self.has_newlines))


@dataclass(frozen=True)
class NativeImage:
    """A frame keeps its shape, and becomes as many patches as that takes, in one of the ``grids`` of the engines.

    Its sides are rounded to whole tokens, each of ``merge`` x ``merge`` patches, and its area brought between
    ``least_pixels`` and ``most_pixels``. A frame of another grid is fitted to the nearest one: squeezed where that is
    no more than the rounding, padded with ``fill`` otherwise. How Qwen2-VL does it (Wang et al. 2024, section 2.1).
    """

    kind: Literal["native"]
    pixels: PixelSpec  # of one patch
    merge: int  # patches along a side of one token
    least_pixels: int
    most_pixels: int
    grids: tuple[tuple[int, int], ...]  # rows and columns of tokens
    fill: tuple[int, ...]  # (3,), RGB
    multiple: int = 1  # tokens that rows and columns are multiples of: a window's side, where attention has windows

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest grid."""
        return max(rows * columns for rows, columns in self.grids)

    @property
    def max_tensors(self) -> int:
        """Patches of the largest grid: each is a pixel tensor, and all are seen at once."""
        return self.max_tokens * self.merge**2

    @property
    def patch_numbers(self) -> int:
        """Numbers in one patch."""
        return 3 * self.pixels.height * self.pixels.width


ImageSpec = SingleImage | TiledImage | NativeImage


def embedding_rows(image: SingleImage | TiledImage) -> int:
    """Rows that the connector puts out of one pixel tensor; of a tile, the last one may be the newline."""
    if isinstance(image, SingleImage):
        return image.tokens
    rows, columns = image.tile_tokens
    return rows * columns + image.has_newlines


@dataclass(frozen=True)
class Segment:
    """A piece of the prompt: ``text``, or the image where that is None."""

    text: str | None


@dataclass(frozen=True)
class PromptSpec:
    """Text around one image, made of the checkpoint's own chat template; what stands before it is prefilled once."""

    segments: tuple[Segment, ...]

    @property
    def before_image(self) -> str:
        """The text before the image."""
        return "".join(segment.text or "" for segment in self.segments[: self._image])

    @property
    def after_image(self) -> str:
        """The text behind the image."""
        return "".join(segment.text or "" for segment in self.segments[self._image + 1 :])

    @property
    def _image(self) -> int:
        [index] = (i for i, segment in enumerate(self.segments) if segment.text is None)
        return index


def prompt_around_image(before: str, after: str) -> PromptSpec:
    """The prompt of a text before the image and one behind it."""
    return PromptSpec((Segment(before), Segment(None), Segment(after)))


@dataclass(frozen=True)
class CoordinateSpec:
    """What the model writes for a corner of a box: whole steps of the fitted picture's width and height.

    They are as many as ``steps``, or, in ``pixels``, as many as the picture has, and ``steps`` at most.
    """

    steps: int  # 100: hundredths; 1000: thousandths
    unit: Literal["steps", "pixels"] = "steps"


@dataclass(frozen=True)
class RotarySpec:
    """Rotary position embedding, from which the runtime makes each sequence's tables of cosines and sines.

    Su et al. 2021, "RoFormer", section 3.2.2, halves of a head side by side. ``scaling`` is ``default``, ``linear``
    (Chen et al. 2023, "Extending Context Window of Large Language Models via Position Interpolation") or ``llama3``, as
    the Llama 3.1 models have it.
    """

    theta: float
    dim: int  # numbers of a head that are turned
    scaling: str = "default"
    factor: float = 1.0  # of linear and llama3
    low_freq_factor: float = 1.0  # the rest: of llama3
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class PositionSpec:
    """Which position each row of a sequence has.

    ``sequential``: its number, counted from the prompt's first token. ``mrope``: three of them, in time, height and
    width, as Qwen2-VL has it (Wang et al. 2024, section 2.1); ``sections`` says how many pairs of a head's numbers each
    of the three turns, one section after another (``sectioned``) or by turns (``interleaved``).
    """

    kind: Literal["sequential", "mrope"]
    rotary: RotarySpec
    sections: tuple[int, ...] = ()  # (3,), of mrope
    order: str = "sectioned"  # one of MROPE_ORDERS


@dataclass(frozen=True)
class LayerState:
    """What a decoder layer keeps between steps: ``self``, keys and values of every row."""

    kind: Literal["self"]


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
    role: str  # one of ROLES
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
    calibration: str | None


@dataclass(frozen=True)
class Manifest:
    """Everything ``bundle.json`` says."""

    schema_version: int
    task: str  # one of TASKS
    name: str
    family: str
    target: str
    recipe: str
    model: ModelSpec
    image: ImageSpec
    prompt: PromptSpec
    coordinates: CoordinateSpec
    positions: PositionSpec
    state: tuple[LayerState, ...]  # one a decoder layer
    components: tuple[Component, ...]
    tokenizer: FileEntry
    report_schema: FileEntry
    memory_plan: Mapping[str, int]  # bytes by item, as planned
    build: Mapping[str, Any]
    hashes: Hashes
    fidelity: Mapping[str, Any] | None

    def component(self, role: str) -> Component:
        """The only component of ``role``, which is neither "decoder" nor "lm_head"."""
        (component,) = (c for c in self.components if c.role == role)
        return component

    @property
    def decoder_groups(self) -> tuple[Component, ...]:
        """Decoder components in the order in which hidden states pass through them."""
        groups = [c for c in self.components if c.role == "decoder"]
        return tuple(sorted(groups, key=lambda c: c.layers or (0, 0)))

    @property
    def lm_heads(self) -> tuple[Component, ...]:
        """The parts of the LM head, in the order of the vocabulary."""
        return tuple(sorted((c for c in self.components if c.role == "lm_head"), key=lambda c: c.name))

    @property
    def deepstack(self) -> tuple[str, ...]:
        """Tensors of the vision encoder that join the image's rows between decoder layers: ``deepstack.0``, ..."""
        return tuple(s.name for s in self.component("vision_encoder").outputs if s.name.startswith(DEEPSTACK))

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
        return (
            self.tokenizer,
            self.report_schema,
            *(file for component in self.components for file in component.files),
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def manifest_to_json(manifest: Manifest) -> str:
    """The text of ``bundle.json``, with a checksum of all else that it says."""
    document = asdict(manifest)
    return json.dumps({**document, "sha256": sha256_of_document(document)}, indent=2) + "\n"


def sha256_of_document(document: Mapping[str, Any]) -> str:
    """The checksum of a manifest: SHA-256 of its JSON without ``sha256``, keys sorted and no spaces in it."""
    said = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
