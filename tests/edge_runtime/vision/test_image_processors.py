"""What a model sees of a frame, and where in the frame that is: a region told of the picture is one of the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.bundle.manifest import CoordinateSpec, NativeImage, PixelSpec, SingleImage, TiledImage
from edge_runtime.errors import FrameError
from edge_runtime.reports.report import Finding, InspectionReport, Region
from edge_runtime.stream.tiling import Tiling, inspect_in_tiles
from edge_runtime.vision.image_processors import describe_image, layout_of, native_grid, pixels_from_frame

PIXELS = PixelSpec(336, 336, 3, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SINGLE = SingleImage("single", PIXELS, "letterbox", None, (0, 0, 0), 576)
CROP = replace(SINGLE, fit="crop", shortest_edge=336)
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
TILES = TiledImage("tiles", PIXELS, GRIDS, "first", (0, 0, 0), (24, 24), (), 2928)
NATIVE = NativeImage(
    "native", replace(PIXELS, height=16, width=16), 2, 65536, 1 << 24, ((22, 40), (15, 20)), (127, 127, 127)
)
PLACES = [(x / 10, y / 10) for y in (0, 2, 4, 6, 8) for x in (0, 3, 6, 8)]  # of a patch's corner, 20 of them
SIZE = (0.16, 0.2)  # of a patch, in fractions of the frame


def with_patch(height: int, width: int, x: float, y: float) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[round(y * height) : round((y + SIZE[1]) * height), round(x * width) : round((x + SIZE[0]) * width)] = 255
    return frame


def look(frame: np.ndarray, image: SingleImage | TiledImage) -> InspectionReport:
    """A perfect model's report: the box around all that is white, in hundredths of the picture that it sees first."""
    pixels, layout = pixels_from_frame(frame, image), layout_of(image, *frame.shape[:2])
    rows, columns = np.nonzero(pixels[0, 0] > 0.5)
    if not len(rows):
        return InspectionReport(seen=(layout.seen,))
    side = image.pixels.width
    corners = (columns.min() / side, rows.min() / side, (columns.max() + 1) / side, (rows.max() + 1) / side)
    region = layout.in_frame(Region(*(round(100 * corner) / 100 for corner in corners)))
    return InspectionReport((Finding("crack", "minor", region, 1.0, "", "monitor"),), seen=(layout.seen,))


def distance(found: Region, x: float, y: float) -> float:
    expected = (x, y, min(x + SIZE[0], 1.0), min(y + SIZE[1], 1.0))
    corners = (found.x_min, found.y_min, found.x_max, found.y_max)
    return max(abs(a - b) for a, b in zip(corners, expected, strict=True))


@pytest.mark.parametrize(
    "image", [SINGLE, replace(SINGLE, fit="squeeze"), TILES], ids=["letterbox", "squeeze", "tiles"]
)
@pytest.mark.parametrize(("height", "width"), [(336, 597), (597, 336), (500, 1000), (1080, 1920), (300, 2400)])
def test_a_patch_is_told_where_it_is_in_the_frame(image: SingleImage | TiledImage, height: int, width: int) -> None:
    for x, y in PLACES:
        [finding] = look(with_patch(height, width, x, y), image).findings
        # A hundredth of a padded picture is more of a frame's shorter side.
        assert distance(finding.region, x, y) < max(0.03, 0.01 * max(height, width) / min(height, width))


@pytest.mark.parametrize(("height", "width", "columns", "rows"), [(500, 1000, 2, 1), (500, 1000, 1, 3)])
def test_a_patch_is_told_where_it_is_in_a_frame_that_is_looked_at_in_pieces(height, width, columns, rows) -> None:
    for x, y in PLACES:
        frame, tiling = with_patch(height, width, x, y), Tiling(columns=columns, rows=rows)
        [finding] = inspect_in_tiles(frame, tiling, lambda tile: look(tile, SINGLE)).findings
        assert distance(finding.region, x, y) < 0.03


def test_of_a_frame_that_is_cropped_what_is_seen_is_right_and_what_is_not_is_said() -> None:
    for x, y in PLACES:
        report = look(with_patch(336, 597, x, y), CROP)
        [seen] = report.seen
        assert report.unseen_share == pytest.approx(1 - 336 / 597, abs=0.005)
        if seen.x_min <= x and x + SIZE[0] <= seen.x_max:
            assert distance(report.findings[0].region, x, y) < 0.03
        if x + SIZE[0] < seen.x_min or x > seen.x_max:
            assert report.findings == ()


def test_pieces_of_a_frame_that_are_cropped_say_together_what_was_not_seen() -> None:
    frame = with_patch(500, 2000, 0.0, 0.0)
    report = inspect_in_tiles(frame, Tiling(columns=2), lambda tile: look(tile, CROP))
    assert len(report.seen) == 2
    assert 0.45 < report.unseen_share < 0.55


def test_padding_is_of_the_colour_that_the_record_names() -> None:
    pixels = pixels_from_frame(np.full((100, 200, 3), 255, np.uint8), replace(SINGLE, fill=(10, 20, 30)))
    np.testing.assert_allclose(pixels[0, :, 0, 0] * 255, [10, 20, 30], atol=0.01)
    assert pixels[0, :, 168].min() > 0.99


@pytest.mark.parametrize(
    ("height", "width", "tokens", "tensors"),
    [(480, 640, 2340, 5), (720, 1280, 1948, 5), (1080, 1920, 1948, 5), (672, 672, 2928, 5)],
)
def test_tiles_take_as_many_tokens_as_llava_next_counts(height: int, width: int, tokens: int, tensors: int) -> None:
    layout = layout_of(TILES, height, width)
    assert (layout.tokens, len(layout.sources)) == (tokens, tensors)
    assert layout.gather is not None
    assert layout.gather.max() < tensors * 577


def test_a_frame_that_takes_too_many_tokens_is_looked_at_in_a_smaller_grid() -> None:
    room = replace(TILES, max_tokens=1948, frames=((1280, 720),))
    layout = layout_of(room, 1000, 1000)
    assert layout.tokens <= 1948
    assert layout.grid in ((1, 2), (2, 1))


def test_a_frame_that_no_grid_has_room_for_is_refused_with_the_command_that_makes_room() -> None:
    with pytest.raises(FrameError, match="--frame 672x672"):
        layout_of(replace(TILES, max_tokens=600), 672, 672)


@pytest.mark.parametrize("overview", ["first", "last", "none"])
def test_rows_of_the_overview_stand_where_the_record_says(overview: str) -> None:
    image = replace(TILES, overview=overview)
    layout = layout_of(image, 336, 672)
    assert layout.gather is not None
    whole = {"first": 0, "last": 2}.get(overview)
    of_tensor = layout.gather // 577
    newlines = layout.gather % 577 == 576
    if whole is not None:
        rows = np.flatnonzero((of_tensor == whole) & ~newlines)
        assert len(rows) == 576
        assert rows[0] == (0 if overview == "first" else layout.tokens - 576)
    assert newlines.sum() == 24
    assert sorted(layout.gather[~newlines]) == [t * 577 + i for t in range(len(layout.sources)) for i in range(576)]


def test_a_record_is_described_with_what_it_makes_of_a_frame() -> None:
    assert "100% of 1920x1080 is seen, in 576 tokens" in describe_image(SINGLE)
    assert "56% of 1920x1080 is seen" in describe_image(CROP)
    assert "2x2 tiles, 1948 tokens" in describe_image(TILES)


@pytest.mark.parametrize(
    ("size", "factor", "least", "most", "grid"),
    [  # transformers' smart_resize
        ((720, 1280), 32, 65536, 1 << 24, (22, 40)),
        ((1080, 1920), 32, 65536, 1 << 24, (34, 60)),
        ((1920, 1080), 32, 65536, 262144, (21, 12)),
        ((333, 1001), 32, 65536, 262144, (9, 27)),
        ((16, 16), 32, 65536, 1 << 24, (8, 8)),
        ((10, 1500), 28, 3136, 1003520, (1, 25)),
        ((720, 1280), 28, 3136, 1003520, (26, 46)),
    ],
)
def test_a_frame_of_its_own_shape_has_the_grid_that_transformers_gives_it(
    size: tuple[int, int], factor: int, least: int, most: int, grid: tuple[int, int]
) -> None:
    pixels = replace(PIXELS, height=factor // 2, width=factor // 2)
    assert native_grid(replace(NATIVE, pixels=pixels, least_pixels=least, most_pixels=most), *size) == grid


@pytest.mark.parametrize(
    ("size", "grid", "is_padded"),
    [
        ((720, 1280), (22, 40), False),
        ((1080, 1920), (22, 40), False),  # squeezed to 704 x 1280, which rounding would give it at that area too
        ((480, 640), (15, 20), False),
        ((480, 480), (15, 20), True),
        ((8, 9), (15, 20), True),
    ],
)
def test_a_frame_is_fitted_to_the_nearest_grid_that_engines_were_built_for(
    size: tuple[int, int], grid: tuple[int, int], is_padded: bool
) -> None:
    layout = layout_of(NATIVE, *size)
    assert (layout.grid, layout.tokens) == (grid, grid[0] * grid[1])
    assert (layout.sources[0].canvas is not None) == is_padded
    assert layout.seen.area == 1


def test_a_region_of_a_padded_picture_is_told_where_it_is_in_the_frame() -> None:
    layout = layout_of(NATIVE, 480, 480)  # in a picture of 640 x 480
    found = layout.in_frame(Region((80 + 120) / 640, 0.25, (80 + 240) / 640, 0.5))
    assert (found.x_min, found.y_min, found.x_max, found.y_max) == pytest.approx((0.25, 0.25, 0.5, 0.5))


def test_patches_of_one_token_lie_beside_each_other() -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[16:32, 32:48, 2] = 255  # red: of the second token, the first patch of its second row
    patches = pixels_from_frame(frame, NATIVE)
    assert patches.shape == (1, 15 * 20 * 4, 3 * 16 * 16)
    assert list(np.nonzero(patches[0].any(axis=1))[0]) == [4 + 2]
    assert patches[0, 6, : 16 * 16].min() == 1
    assert not patches[0, 6, 16 * 16 :].any()


def test_a_frame_that_is_all_length_is_refused() -> None:
    with pytest.raises(FrameError, match="200 times the other"):
        layout_of(NATIVE, 4, 900)


def test_grids_of_their_own_shape_are_described() -> None:
    assert "100% of 640x480 is seen, in 15x20 = 300 tokens" in describe_image(NATIVE)


def test_a_region_in_pixels_of_the_picture_is_told_in_fractions_of_it() -> None:
    layout = layout_of(NATIVE, 480, 640)  # in a picture of its own size
    written = Region(160 / 1280, 120 / 1280, 320 / 1280, 480 / 1280)  # of 1280 pixels at most
    found = layout.in_picture(written, CoordinateSpec(1280, "pixels"))
    assert (found.x_min, found.y_min, found.x_max, found.y_max) == pytest.approx((0.25, 0.25, 0.5, 1.0))
