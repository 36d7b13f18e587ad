"""Frames come from folders, videos and cameras; what is damaged says so."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import FrameError, SourceError
from edge_runtime.stream.sources import CameraSource, load_image, open_source
from tests.fakes import FakeCapture


def jpeg(value: int, side: int = 64) -> bytes:
    noise = np.random.default_rng(value).integers(0, 40, (side, side, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", noise + np.uint8(value))[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.jpg").write_bytes(jpeg(100))
    (tmp_path / "a.JPG").write_bytes(jpeg(50))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_gives_its_images_in_order_of_name(folder: Path) -> None:
    with open_source(str(folder)) as source:
        frames = list(source)
    assert [frame.name for frame in frames] == ["a.JPG", "b.jpg"]
    assert frames[0].image.shape == (64, 64, 3)
    assert frames[0].image.dtype == np.uint8


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    names = ["2 left.jpg", "frame1.jpg", "frame2.jpg", "frame010.jpg", "frame10.jpg", "frames.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(jpeg(50))
    with open_source(str(tmp_path)) as source:
        assert [frame.name for frame in source] == names


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.98])
def test_a_truncated_jpeg_is_a_frame_without_a_picture(folder: Path, kept: float) -> None:
    whole = jpeg(150)
    (folder / "aa.jpg").write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with open_source(str(folder)) as source:
        whole_one, damaged, _ = source
    assert whole_one.image.shape == (64, 64, 3)
    assert (damaged.name, damaged.stamp_s) == ("aa.jpg", 1.0)
    with pytest.raises(FrameError, match=r"aa\.jpg is damaged"):
        _ = damaged.image


def test_a_jpeg_cut_behind_the_thumbnail_in_it_is_refused(tmp_path: Path) -> None:
    thumbnail, photo = jpeg(50), jpeg(150, side=256)
    whole = photo[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + photo[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert load_image(tmp_path / "whole.jpg").shape == (256, 256, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[:-1000])
    with pytest.raises(FrameError, match=r"cut\.jpg is damaged"):
        load_image(tmp_path / "cut.jpg")


def test_a_jpeg_behind_which_a_phone_put_a_video_is_read(tmp_path: Path) -> None:
    (tmp_path / "motion.jpg").write_bytes(jpeg(150) + bytes(100_000))
    assert load_image(tmp_path / "motion.jpg").shape == (64, 64, 3)


def test_whoever_wants_pictures_only_is_warned_of_the_damaged_ones(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "aa.jpg").write_bytes(b"")
    with open_source(str(folder)) as source:
        assert len(list(source.images())) == 2
    assert "failed: aa.jpg: " in caplog.text


def test_a_single_image_is_a_source_of_one_frame(folder: Path) -> None:
    with open_source(str(folder / "b.jpg")) as source:
        assert [frame.name for frame in source] == ["b.jpg"]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_text_file_named_like_an_image_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_text("hello")
    with pytest.raises(FrameError, match="damaged or no image"):
        load_image(tmp_path / f"x{suffix}")


def test_an_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"none\.jpg cannot be read"):
        load_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("source", ["nowhere", "", "nul\0byte", "x" * 5000, "-1", "9" * 30])
def test_a_source_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(SourceError):
        open_source(source)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path))


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not a film")
    with pytest.raises(SourceError, match="ffmpeg"):
        open_source(str(tmp_path / "film.mp4"))


def film(path: Path, frames: int = 5) -> Path:
    """A film of 10 frames a second, each 50 grey levels brighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index * 50 % 256, np.uint8))
    writer.release()
    return path


def test_a_video_gives_every_frame_with_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(str(film(tmp_path / "film.avi"))) as source:
        frames = list(source)
    assert caplog.text == ""
    assert [frame.stamp_s for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert frames[-1].name == "film.avi#4"
    assert abs(int(frames[-1].image.mean()) - 200) < 8


def test_a_video_that_ends_before_it_should_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = film(tmp_path / "film.avi", frames=20)
    path.write_bytes(path.read_bytes()[:-2000])
    with open_source(str(path)) as source:
        frames = list(source)
    assert f"{len(frames)} frames of 20 could be decoded" in caplog.text
    assert 0 < len(frames) < 20


def test_a_camera_that_stops_is_opened_again_and_goes_on() -> None:
    captures = [FakeCapture(2), FakeCapture(0), FakeCapture(3)]
    opened = iter(captures)
    with CameraSource(7, retry_s=0.0, open_capture=lambda number: next(opened)) as source:
        names = [frame.name for frame in islice(source, 5)]
    assert names == [f"camera7#{index}" for index in range(5)]
    assert all(capture.released for capture in captures)


def test_a_camera_that_cannot_be_opened_again_at_once_is_waited_for() -> None:
    answers = iter([FakeCapture(1), SourceError("busy"), SourceError("busy"), FakeCapture(1)])

    def open_capture(number: int) -> FakeCapture:
        answer = next(answers)
        if isinstance(answer, SourceError):
            raise answer
        return answer

    with CameraSource(0, retry_s=0.0, open_capture=open_capture) as source:
        assert [frame.name for frame in islice(source, 2)] == ["camera0#0", "camera0#1"]


def test_a_camera_that_does_not_come_back_is_given_up() -> None:
    with (
        CameraSource(0, patience_s=0.05, retry_s=0.01, open_capture=lambda number: FakeCapture(0)) as source,
        pytest.raises(SourceError, match="gave no frame"),
    ):
        next(iter(source))


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(SourceError, match="plugged in"):
        open_source("63")
