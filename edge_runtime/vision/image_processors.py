"""A frame as the vision encoder takes it: fitted, cut into pixel tensors, and where each of their points is in the
frame.

A bundle's image record says how; what becomes of a frame follows from its size alone, so that a camera's is worked out
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import (
    CoordinateSpec,
    ImageSpec,
    NativeImage,
    PixelSpec,
    SingleImage,
    TiledImage,
    TileTags,
    embedding_rows,
)
from edge_runtime.errors import FrameError
from edge_runtime.reports.report import WHOLE, Region
from edge_runtime.vision.resampling import (
    Canvas,
    Float32,
    OutputWindow,
    check_frame,
    resize_like_pillow,
    resize_whole_like_pillow,
)

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class TensorSource:
    """What one pixel tensor shows: a window of the frame, resized, at a place of the tensor; plain around it."""

    rows: OutputWindow
    columns: OutputWindow
    canvas: Canvas | None = None  # that the frame lies on before it is resized
    top: int = 0  # where the window lies in the tensor
    left: int = 0


@dataclass(frozen=True)
class ImageLayout:
    """What becomes of a frame of one size."""

    frame_size: tuple[int, int]  # height, width
    sources: tuple[TensorSource, ...]  # one a pixel tensor
    tokens: int  # that the image takes in the prompt
    gather: Indices | None  # (tokens,): rows of the tensors' embeddings, one tensor after another; None: as they are
    grid: tuple[int, int] | None  # rows and columns of tiles, or of the tokens of an image of its own shape
    picture: Region  # where the fitted picture lies, in fractions of the frame: beyond 0 and 1 where it is padded
    seen: Region  # part of the frame that the model looks at
    through: tuple[tuple[int, int], ...] = ()  # heights and widths that the frame is resized to before, one by one
    text: Mapping[int, int] = field(default_factory=dict)  # tokens of text by their place among the image's own

    def pack(self, rows: NDArray[Any], embedding_rows: Callable[[Sequence[int]], Float32], out: NDArray[Any]) -> None:
        """Write the image's rows to ``out`` (tokens, D): of all tensors' ``rows`` (N * P, D), and of its text."""
        assert self.gather is not None
        np.take(rows, self.gather, axis=0, out=out)
        if self.text:
            out[list(self.text)] = embedding_rows(list(self.text.values()))

    def in_picture(self, region: Region, coordinates: CoordinateSpec) -> Region:
        """A region as the model wrote it, over the ``steps`` of its coordinates, in fractions of the fitted picture."""
        if coordinates.unit == "steps":
            return region
        [source] = self.sources
        across, down = coordinates.steps / source.columns.full, coordinates.steps / source.rows.full
        return Region(region.x_min * across, region.y_min * down, region.x_max * across, region.y_max * down)

    def in_frame(self, region: Region) -> Region:
        """A region in fractions of the fitted picture as one in fractions of the frame, cut at its edges."""
        box = self.picture
        width, height = box.x_max - box.x_min, box.y_max - box.y_min

        def inside(value: float) -> float:
            return min(max(value, 0.0), 1.0)

        return Region(
            inside(box.x_min + region.x_min * width),
            inside(box.y_min + region.y_min * height),
            inside(box.x_min + region.x_max * width),
            inside(box.y_min + region.y_max * height),
        )


@lru_cache(maxsize=16)
def layout_of(image: ImageSpec, height: int, width: int) -> ImageLayout:
    """What becomes of a frame of that size."""
    return _LAYOUTS[image.kind](image, height, width)


_USUAL_FRAMES = ((1920, 1080), (640, 480))  # widths and heights that a description tells of


def describe_image(image: ImageSpec) -> str:
    """What the model sees of usual frames, or of those that the bundle was built for, in a few words."""
    frames = image.frames if isinstance(image, TiledImage) and image.frames else _USUAL_FRAMES
    fit = image.fit if isinstance(image, SingleImage) else image.kind if image.max_tensors > 1 else "squeeze"
    return "; ".join([_FIT_WORDS[fit], *(_seen_of(image, *frame) for frame in frames)])


def _seen_of(image: ImageSpec, width: int, height: int) -> str:
    try:
        layout = layout_of(image, height, width)
    except FrameError:
        return f"{width}x{height} takes too many tokens"
    kind = "= " if isinstance(image, NativeImage) else "tiles, "
    is_told = isinstance(image, NativeImage) or len(layout.sources) > 1
    grid = f"{layout.grid[0]}x{layout.grid[1]} {kind}" if layout.grid and is_told else ""
    return f"{layout.seen.area:.0%} of {width}x{height} is seen, in {grid}{layout.tokens} tokens"


_FIT_WORDS = {
    "letterbox": "frames are padded to the encoder's shape (letterbox)",
    "squeeze": "frames are squeezed to the encoder's shape",
    "crop": "frames are cropped to the encoder's shape",
    "tiles": "frames are cut into tiles",
    "native": "frames keep their shape",
}


def pixels_from_frame(frame: NDArray[np.uint8], image: ImageSpec) -> Float32:
    """The pixel tensors f32 (N, 3, H, W), RGB and normalised, of ``frame``: uint8 (H, W, 3), BGR.

    Of an image of its own shape the tensors are patches, those of one token beside each other: (1, N, 3 * H * W).

    Equal to what the Hugging Face image processor (Pillow backend) makes of the fitted picture, within one of 255 steps
    before normalising.

    Raises:
        FrameError: the frame cannot be inspected.
    """
    check_frame(frame)
    layout = layout_of(image, *frame.shape[:2])
    sources = layout.sources
    if isinstance(image, NativeImage):
        return _patches(frame, image, layout)
    pixels = np.empty((len(sources), 3, image.pixels.height, image.pixels.width), np.float32)
    for size in layout.through:
        frame = resize_whole_like_pillow(frame, *size, image.pixels.resample)
    for tensor, source in zip(pixels, sources, strict=True):
        fill_tensor(tensor, frame, source, image.pixels, image.fill)
    return pixels


def squeeze(frame: NDArray[np.uint8], spec: PixelSpec) -> Float32:
    """The one pixel tensor f32 (1, 3, H, W) that a frame is squeezed to, whatever its shape.

    Raises:
        FrameError: the frame cannot be inspected.
    """
    check_frame(frame)
    pixels = np.empty((1, 3, spec.height, spec.width), np.float32)
    fill_tensor(pixels[0], frame, _squeezed(spec), spec, (0, 0, 0))
    return pixels


def fill_tensor(
    tensor: Float32, frame: NDArray[np.uint8], source: TensorSource, spec: PixelSpec, fill: tuple[int, ...]
) -> None:
    """Write one pixel tensor (3, H, W)."""
    std = np.asarray(spec.std, np.float32)
    scale = (np.float32(spec.rescale_factor) / std)[:, None, None]
    offset = (np.asarray(spec.mean, np.float32) / std)[:, None, None]
    size = source.rows.count, source.columns.count
    if size != tensor.shape[1:]:
        tensor[...] = np.asarray(fill, np.float32)[:, None, None] * scale - offset
    if 0 in size:  # all of it is padding
        return
    shown = tensor[:, source.top : source.top + size[0], source.left : source.left + size[1]]
    resized = resize_like_pillow(frame, source.rows, source.columns, spec.resample, source.canvas)
    np.multiply(resized, scale, out=shown)
    shown -= offset


def _squeezed(spec: PixelSpec) -> TensorSource:
    return TensorSource(OutputWindow(spec.height, 0, spec.height), OutputWindow(spec.width, 0, spec.width))


def _single(image: SingleImage, height: int, width: int) -> ImageLayout:
    source, picture = _FITS[image.fit](image, height, width)
    seen = Region(max(picture.x_min, 0.0), max(picture.y_min, 0.0), min(picture.x_max, 1.0), min(picture.y_max, 1.0))
    return ImageLayout((height, width), (source,), image.tokens, None, None, picture, seen)


def _fit_squeeze(image: SingleImage, height: int, width: int) -> tuple[TensorSource, Region]:
    return _squeezed(image.pixels), WHOLE


def _fit_crop(image: SingleImage, height: int, width: int) -> tuple[TensorSource, Region]:
    """The shortest edge resized, and the middle kept."""
    pixels = image.pixels
    edge = image.shortest_edge or min(pixels.height, pixels.width)
    short = min(height, width)
    full_height = edge if height == short else int(edge * height / short)
    full_width = edge if width == short else int(edge * width / short)
    top, left = (full_height - pixels.height) // 2, (full_width - pixels.width) // 2
    # Only the crop is computed, so a 1 x 8000 frame costs no more than a square one.
    source = TensorSource(OutputWindow(full_height, top, pixels.height), OutputWindow(full_width, left, pixels.width))
    picture = Region(
        left / full_width, top / full_height, (left + pixels.width) / full_width, (top + pixels.height) / full_height
    )
    return source, picture


def _fit_letterbox(image: SingleImage, height: int, width: int) -> tuple[TensorSource, Region]:
    """Padded to the tensor's shape on both sides, the odd pixel behind it, and resized."""
    source = _squeezed(image.pixels)
    canvas, picture = _letterboxed(height, width, image.pixels.height / image.pixels.width, image.fill)
    return TensorSource(source.rows, source.columns, canvas), picture


def _letterboxed(height: int, width: int, ratio: float, fill: tuple[int, ...]) -> tuple[Canvas, Region]:
    """A canvas whose height is ``ratio`` times its width, with the frame in its middle, and where it lies in the
    frame."""
    full_height, full_width = max(height, round(width * ratio)), max(width, round(height / ratio))
    top, left = (full_height - height) // 2, (full_width - width) // 2
    picture = Region(-left / width, -top / height, (full_width - left) / width, (full_height - top) / height)
    return Canvas(full_height, full_width, top, left, fill), picture


_FITS: Mapping[str, Callable[[SingleImage, int, int], tuple[TensorSource, Region]]] = {
    "squeeze": _fit_squeeze,
    "crop": _fit_crop,
    "letterbox": _fit_letterbox,
}


def _tiles(image: TiledImage, height: int, width: int) -> ImageLayout:
    """In the grid that suits the frame best, of those whose tokens the bundle has room for."""
    grids = list(image.grids)
    while grids:
        grid = _RULES[image.rule](image, grids, height, width)
        gather, text = _packed(image, grid, height, width)
        if len(gather) <= image.max_tokens:
            sources = [_tile(image, grid, height, width, row, column) for row, column in np.ndindex(*grid)]
            overview = [_squeezed(image.pixels)] * (image.tensors_of(grid) - len(sources))
            ordered = overview + sources if image.overview == "first" else sources + overview
            through = _resized_before(image, grid, height, width)
            return ImageLayout((height, width), tuple(ordered), len(gather), gather, grid, WHOLE, WHOLE, through, text)
        grids.remove(grid)
    raise FrameError(
        f"a frame of {width}x{height} takes more tokens in every grid than the {image.max_tokens} that the bundle was "
        f"built for; build it anew with --frame {width}x{height}"
    )


def tiled_tokens(image: TiledImage, height: int, width: int) -> int:
    """Tokens that a frame of that size takes in the grid that suits it best."""
    grid = _RULES[image.rule](image, image.grids, height, width)
    return len(_packed(image, grid, height, width)[0])


def grid_tokens(image: TiledImage, grid: tuple[int, int]) -> int:
    """Tokens of an image in that grid, of a record without newlines; with them, they depend on the frame too."""
    assert not image.has_newlines
    return len(_packed(image, grid, *_pixels_of(image, grid))[0])


def _most_pixels(image: TiledImage, grids: Sequence[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """transformers' ``select_best_resolution``: most pixels of the frame, then least padding; of equals, the first."""

    def unfitness(grid: tuple[int, int]) -> tuple[int, int]:
        full_height, full_width = _pixels_of(image, grid)
        scale = min(full_width / width, full_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return -effective, full_height * full_width - effective

    return min(grids, key=unfitness)


def _nearest_ratio(image: TiledImage, grids: Sequence[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """transformers' ``get_optimal_tiled_canvas``, which goes through grids from the fewest tiles, narrow ones first."""
    best, least = grids[0], math.inf
    for grid in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[1])):
        difference = abs(width / height - grid[1] / grid[0])
        if difference < least or (difference == least and width * height > 0.5 * math.prod(_pixels_of(image, grid))):
            best, least = grid, difference
    return best


def _longest_edge(image: TiledImage, grids: Sequence[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """transformers' ``resize_for_vision_encoder`` in tiles; or the grid of the nearest ratio, the largest of those."""
    height, width = _edge_resized(image, height, width)
    tile_height, tile_width = image.pixels.height, image.pixels.width
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / tile_width)
        rows = math.ceil(int(columns * tile_width / ratio) / tile_height)
    else:
        rows = math.ceil(height / tile_height)
        columns = math.ceil(int(rows * tile_height * ratio) / tile_width)
    wanted = columns / rows

    def unfitness(grid: tuple[int, int]) -> tuple[float, int]:
        ratio = grid[1] / grid[0]
        return max(ratio / wanted, wanted / ratio), -math.prod(grid)

    return (rows, columns) if (rows, columns) in grids else min(grids, key=unfitness)


_RULES: Mapping[str, Callable[[TiledImage, Sequence[tuple[int, int]], int, int], tuple[int, int]]] = {
    "most_pixels": _most_pixels,
    "nearest_ratio": _nearest_ratio,
    "longest_edge": _longest_edge,
}


def _edge_resized(image: TiledImage, height: int, width: int) -> tuple[int, int]:
    """Height and width of the frame at the longest edge: the shorter one even, as transformers rounds it."""
    edge = image.longest_edge or 0
    ratio = width / height
    if width >= height:
        short = int(edge / ratio)
        return max(short + short % 2, 1), edge
    short = int(edge * ratio)
    return edge, max(short + short % 2, 1)


def _resized_before(image: TiledImage, grid: tuple[int, int], height: int, width: int) -> tuple[tuple[int, int], ...]:
    """What the frame is resized to, one after another, before it is cut and squeezed."""
    if image.rule != "longest_edge":
        return ()
    edge = _edge_resized(image, height, width)
    return (edge,) if math.prod(grid) == 1 else (edge, _pixels_of(image, grid))


def _pixels_of(image: TiledImage, grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] * image.pixels.height, grid[1] * image.pixels.width


def _resized(image: TiledImage, grid: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Height and width of the frame within the grid: its shape kept, or squeezed."""
    full_height, full_width = _pixels_of(image, grid)
    if image.rule != "most_pixels":
        return full_height, full_width
    if full_width / width < full_height / height:
        return min(math.ceil(height * (full_width / width)), full_height), full_width
    return full_height, min(math.ceil(width * (full_height / height)), full_width)


def _tile(image: TiledImage, grid: tuple[int, int], height: int, width: int, row: int, column: int) -> TensorSource:
    full = _pixels_of(image, grid)
    resized = _resized(image, grid, height, width)
    windows, places = [], []
    for size, inner, tile, number in zip(
        full, resized, (image.pixels.height, image.pixels.width), (row, column), strict=True
    ):
        offset = (size - inner) // 2
        begin, end = number * tile, (number + 1) * tile
        first, last = max(begin, offset), min(end, offset + inner)
        windows.append(OutputWindow(inner, first - offset, max(last - first, 0)))
        places.append(first - begin)
    return TensorSource(windows[0], windows[1], None, places[0], places[1])


def _packed(image: TiledImage, grid: tuple[int, int], height: int, width: int) -> tuple[Indices, Mapping[int, int]]:
    """Where each of the image's rows lies among the tensors' embeddings, and which are text instead."""
    if image.has_newlines:
        return _gather_rows(image, grid, height, width), {}
    per_tensor, tags = embedding_rows(image), image.tags
    places: list[int] = []
    text: dict[int, int] = {}

    def add_text(tokens: tuple[int, ...]) -> None:
        text.update(enumerate(tokens, start=len(places)))
        places.extend([0] * len(tokens))

    for tensor in range(image.tensors_of(grid)):
        if tags is not None:
            add_text(_tag_before(tags, grid, tensor))
        places += range(tensor * per_tensor, (tensor + 1) * per_tensor)
    if tags is not None:
        add_text(tags.behind)
    return np.array(places, np.intp), text


def _tag_before(tags: TileTags, grid: tuple[int, int], tensor: int) -> tuple[int, ...]:
    if math.prod(grid) == 1:
        return tags.before_single
    if tensor == math.prod(grid):
        return tags.before_overview
    return tags.before_tile[tensor // grid[1]][tensor % grid[1]]


def _gather_rows(image: TiledImage, grid: tuple[int, int], height: int, width: int) -> Indices:
    """Where each of the image's rows lies among the tensors' embeddings, as LLaVA-NeXT packs and unpads them."""
    tile_rows, tile_columns = image.tile_tokens
    rows, columns = grid[0] * tile_rows, grid[1] * tile_columns
    top, left = _unpadding(rows, columns, height, width)
    per_tensor = embedding_rows(image)
    first_tile = int(image.overview == "first")
    y, x = np.mgrid[top : rows - top, left : columns - left]
    tile = first_tile + y // tile_rows * grid[1] + x // tile_columns
    inner = y % tile_rows * tile_columns + x % tile_columns
    newline = np.full((len(y), 1), per_tensor - 1)  # the first tensor's last row, which is the same in all
    packed = np.concatenate([tile * per_tensor + inner, newline], axis=1).reshape(-1)
    if image.overview == "none":
        return packed
    whole = np.arange(tile_rows * tile_columns) + (0 if first_tile else grid[0] * grid[1] * per_tensor)
    return np.concatenate([whole, packed] if first_tile else [packed, whole])


def _unpadding(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of features that show padding alone, on each side: transformers' ``unpad_image``."""
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        return (rows - kept) // 2, 0
    kept = int(round(width * (rows / height), 7))
    return 0, (columns - kept) // 2


_LARGEST_RATIO = 200  # of a frame's sides, as transformers has it


def _native(image: NativeImage, height: int, width: int) -> ImageLayout:
    """In the grid that the model would choose, or the nearest one that there is."""
    if max(height, width) > _LARGEST_RATIO * min(height, width):
        raise FrameError(
            f"the frame is {width}x{height}, and no side must be more than {_LARGEST_RATIO} times the other; cut it"
        )
    chosen = native_grid(image, height, width)
    grid = chosen if chosen in image.grids else _nearest_grid(image, height, width)
    full_height, full_width = (n * side for n, side in zip(grid, _token_sides(image), strict=True))
    picture, canvas = WHOLE, None
    if grid not in (chosen, _rounded(image, height, width, full_height * full_width)):
        canvas, picture = _letterboxed(height, width, full_height / full_width, image.fill)
    source = TensorSource(OutputWindow(full_height, 0, full_height), OutputWindow(full_width, 0, full_width), canvas)
    return ImageLayout((height, width), (source,), grid[0] * grid[1], None, grid, picture, WHOLE)


def native_grid(image: NativeImage, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens that the model itself would give a frame: transformers' ``smart_resize``."""
    high, wide = (image.multiple * side for side in _token_sides(image))
    rows, columns = round(height / high), round(width / wide)
    pixels = rows * high * columns * wide
    if pixels > image.most_pixels:
        shrink = math.sqrt(height * width / image.most_pixels)
        rows, columns = max(math.floor(height / shrink / high), 1), max(math.floor(width / shrink / wide), 1)
    elif pixels < image.least_pixels:
        grow = math.sqrt(image.least_pixels / (height * width))
        rows, columns = math.ceil(height * grow / high), math.ceil(width * grow / wide)
    return rows * image.multiple, columns * image.multiple


def _token_sides(image: NativeImage) -> tuple[int, int]:
    """Height and width of a token, in pixels."""
    return image.merge * image.pixels.height, image.merge * image.pixels.width


def _nearest_grid(image: NativeImage, height: int, width: int) -> tuple[int, int]:
    """Of the nearest ratio, within a hundredth; then of the nearest area."""
    sides = _token_sides(image)

    def distance(grid: tuple[int, int]) -> tuple[int, float]:
        full_height, full_width = grid[0] * sides[0], grid[1] * sides[1]
        ratio = abs(math.log(full_height / full_width) - math.log(height / width))
        return round(100 * ratio), abs(math.log(full_height * full_width / (height * width)))

    return min(image.grids, key=distance)


def _rounded(image: NativeImage, height: int, width: int, pixels: int) -> tuple[int, int]:
    """The grid of a frame that is resized to so many pixels, and then rounded to whole tokens."""
    scale, multiple = math.sqrt(pixels / (height * width)), image.multiple
    high, wide = (multiple * side for side in _token_sides(image))
    return round(height * scale / high) * multiple, round(width * scale / wide) * multiple


def _patches(frame: NDArray[np.uint8], image: NativeImage, layout: ImageLayout) -> Float32:
    """One picture in patches (1, N, 3 * H * W): token after token, and rows of its patches one after another."""
    [source] = layout.sources
    picture = np.empty((3, source.rows.count, source.columns.count), np.float32)
    fill_tensor(picture, frame, source, image.pixels, image.fill)
    rows, columns = layout.grid or (0, 0)
    merge, height, width = image.merge, image.pixels.height, image.pixels.width
    blocks = picture.reshape(3, rows, merge, height, columns, merge, width)
    patches: Float32 = blocks.transpose(1, 4, 2, 5, 0, 3, 6).reshape(1, -1, image.patch_numbers)
    return patches


_LAYOUTS: Mapping[str, Callable[[Any, int, int], ImageLayout]] = {
    "single": _single,
    "tiles": _tiles,
    "native": _native,
}
