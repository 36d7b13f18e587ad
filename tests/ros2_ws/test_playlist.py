"""The camera player shows a folder, a video or a rendered flight, as often as asked, and says what it cannot show."""

from itertools import islice

import cv2
import numpy as np
import pytest
from inspection_ros.replay.playlist import open_playlist

from edge_runtime.errors import SourceError


@pytest.fixture
def folder(tmp_path):
    for level in (10, 20, 30):
        cv2.imwrite(str(tmp_path / f"{level}.png"), np.full((4, 6, 3), level, np.uint8))
    return str(tmp_path)


def levels(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


def test_a_folder_is_shown_once_in_order(folder):
    assert levels(open_playlist(folder)) == [10, 20, 30]


def test_no_more_frames_are_shown_than_asked_for(folder):
    assert levels(open_playlist(folder, max_frames=2)) == [10, 20]


def test_a_loop_begins_again_and_ends_at_the_limit(folder):
    assert levels(open_playlist(folder, max_frames=5, loop=True)) == [10, 20, 30, 10, 20]
    assert len(list(islice(open_playlist(folder, loop=True), 100))) == 100


@pytest.mark.parametrize("source", ["missing", "rendered:", "rendered:-1"])
def test_a_source_that_is_none_is_refused(source):
    with pytest.raises(SourceError):
        list(open_playlist(source))


def test_a_loop_over_damaged_images_ends_with_an_error(tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SourceError, match="no frame"):
        list(open_playlist(str(tmp_path), loop=True))


def test_a_rendered_flight_is_the_one_of_its_seed():
    flight = pytest.importorskip("engines.reference.flight", reason="the renderer needs '.[build]'")
    shown = list(open_playlist("rendered:7", max_frames=2))
    rendered = list(islice(flight.render_flight(7, 2), 2))
    assert len(shown) == 2
    np.testing.assert_array_equal(shown[1], rendered[1])
