"""Frames in tiles as InternVL's and SmolVLM's own processors make them: the same pixels, the same tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import FrameError
from edge_runtime.vision.image_processors import describe_image, layout_of, pixels_from_frame, tiled_tokens
from tests.parity.golden_processors import (
    IMAGE,
    RECORDS,
    SHAPES,
    bytes_of,
    golden_frame,
    load_golden_processors,
    tagging_tokenizer,
)

SPLIT, ONE_TILE, INTERNVL = RECORDS["smolvlm"], RECORDS["smolvlm one tile"], RECORDS["internvl"]
EACH = [(name, shape) for name in RECORDS for shape in SHAPES]


@pytest.fixture(scope="module")
def golden():
    return load_golden_processors()


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_a_frame_becomes_the_tiles_of_transformers(golden, name, shape):
    found = bytes_of(pixels_from_frame(golden_frame(shape), RECORDS[name]), RECORDS[name])

    assert found.shape == golden[name, shape].tiles.shape
    roundings = 1 + len(layout_of(RECORDS[name], *SHAPES[shape]).through)  # each may end on the other side of a half
    assert np.abs(found - golden[name, shape].tiles).max() < min(roundings, 2) + 0.01


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_an_image_takes_the_tokens_of_transformers(golden, name, shape):
    layout = layout_of(RECORDS[name], *SHAPES[shape])
    image_token = tagging_tokenizer().token_to_id(IMAGE)

    found = tuple(layout.text.get(place, image_token) for place in range(layout.tokens))

    assert found == golden[name, shape].tokens
    assert tiled_tokens(RECORDS[name], *SHAPES[shape]) == layout.tokens


@pytest.mark.parametrize("image", [SPLIT, ONE_TILE, INTERNVL], ids=["split", "one tile", "internvl"])
def test_rows_of_tiles_lie_between_rows_of_text(image):
    layout = layout_of(image, *SHAPES["16:9"])
    rows = np.arange(4 * len(layout.sources))[:, None].astype(np.float32)
    packed = np.empty((layout.tokens, 1), np.float32)

    layout.pack(rows, lambda tokens: -np.array(tokens, np.float32)[:, None], packed)

    shown = [place for place in range(layout.tokens) if place not in layout.text]
    assert packed[shown, 0].tolist() == list(range(len(rows)))
    assert {place: -packed[place, 0] for place in layout.text} == layout.text


def test_the_ratio_rule_takes_more_tiles_of_a_large_frame_than_of_a_small_one():
    assert layout_of(INTERNVL, 60, 60).grid == (3, 3)
    assert layout_of(INTERNVL, 20, 20).grid == (1, 1)


def test_a_frame_of_one_tile_needs_no_overview():
    assert len(layout_of(INTERNVL, 28, 28).sources) == 1
    assert INTERNVL.max_tensors == 13
    assert ONE_TILE.max_tensors == 1
    assert "squeezed" in describe_image(ONE_TILE)


def test_a_frame_that_takes_too_many_tokens_is_seen_in_the_next_best_grid():
    room = replace(SPLIT, max_tokens=tiled_tokens(SPLIT, 84, 112))

    assert layout_of(SPLIT, 112, 112).grid == (4, 4)
    assert layout_of(room, 112, 112).grid == (3, 3)
    assert layout_of(room, 84, 112).grid == (3, 4)
    with pytest.raises(FrameError, match="--frame 112x112"):
        layout_of(replace(SPLIT, max_tokens=4), 112, 112)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_frames_of_extreme_shapes_have_a_grid(size):
    for image in RECORDS.values():
        pixels = pixels_from_frame(np.full((*size, 3), 128, np.uint8), image)
        assert np.isfinite(pixels).all()
        assert len(pixels) == image.tensors_of(layout_of(image, *size).grid)


def test_a_patch_is_told_where_it_is_in_a_frame_of_tiles():
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[45:63, 80:120] = 255
    overview = pixels_from_frame(frame, SPLIT)[-1, 0]

    rows, columns = np.nonzero(overview > 0)
    corners = columns.min() / 28, rows.min() / 28, (columns.max() + 1) / 28, (rows.max() + 1) / 28

    assert all(math.isclose(a, b, abs_tol=0.05) for a, b in zip(corners, (0.5, 0.5, 0.75, 0.7), strict=True))
