"""No frame of a damaged video passes as sound, and what is sound is read as it was written."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.errors import FrameError
from edge_runtime.stream.video_reader import VideoReader

KEY_FRAMES_EVERY = 6
FRAMES = 24


def write_film(path: Path, codec: str, pixels: str = "yuv420p") -> Path:
    """A textured wall that moves by: 24 frames of 160 x 120, 30 a second, every sixth a key frame."""
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    wall = cv2.GaussianBlur(noise, (0, 0), 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixels
        stream.gop_size = KEY_FRAMES_EVERY
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(wall, 3 * index, 1)), "bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path) -> list[NDArray[np.uint8] | FrameError]:
    reader = VideoReader(str(path))
    try:
        return [content for content, _ in reader]
    finally:
        reader.release()


def damaged(path: Path, at: int, junk: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[at : at + len(junk)] = junk
    other = path.with_name(f"damaged{path.suffix}")
    other.write_bytes(content)
    return other


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """Place, bytes and whether it is a key frame, of each packet in a film."""
    with av.open(str(path)) as container:
        return [(one.pos or 0, one.size, one.is_keyframe) for one in container.demux(video=0) if one.size]


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4", "libx264")


@pytest.mark.parametrize("seed", range(8))
def test_of_a_damaged_h264_film_no_frame_that_differs_passes_as_sound(h264: Path, seed: int) -> None:
    sound, rng = read(h264), np.random.default_rng(seed)
    at, size_bytes, _ = packets(h264)[int(rng.integers(FRAMES))]
    shown = read(damaged(h264, at + size_bytes // 2, rng.bytes(min(20, size_bytes // 3))))
    assert len(shown) == FRAMES
    for before, after in zip(sound, shown, strict=True):
        assert isinstance(before, np.ndarray)
        assert isinstance(after, FrameError) or np.array_equal(before, after)


def test_what_was_predicted_from_a_damaged_frame_is_refused_up_to_the_next_key_frame(h264: Path) -> None:
    keys = [number for number, (_, _, is_key) in enumerate(packets(h264)) if is_key]
    at, size_bytes, _ = packets(h264)[keys[1]]
    shown = read(damaged(h264, at + size_bytes // 2, bytes(range(40, 60))))
    refused = [isinstance(content, FrameError) for content in shown]
    assert all(refused[keys[1] : keys[2]])
    assert not any(refused[: keys[1] - 2] + refused[keys[2] :])  # FFmpeg drops the last two before the damage
    assert "cannot be decoded" in str(shown[keys[1]])
    assert "decoded from a damaged frame" in str(shown[keys[1] + 1])


def test_of_motion_jpeg_only_the_damaged_frame_is_refused(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.avi", "mjpeg", "yuvj420p")
    at, size_bytes, _ = packets(film)[9]
    shown = read(damaged(film, at + size_bytes // 2, b"\xff\xd9" * 8))
    assert [index for index, content in enumerate(shown) if isinstance(content, FrameError)] == [9]


def test_frames_have_the_times_at_which_they_are_shown(h264: Path) -> None:
    reader = VideoReader(str(h264))
    assert [time_s for _, time_s in reader] == pytest.approx([index / 30 for index in range(FRAMES)])
    assert reader.duration_s == pytest.approx(FRAMES / 30)
    reader.release()


def test_a_film_is_shown_upright(h264: Path) -> None:
    """A phone that was held upright writes rows as its sensor has them, and how to turn them."""
    as_filmed = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    before, after = (
        b"".join(value.to_bytes(4, "big", signed=True) for value in matrix) for matrix in (as_filmed, turned)
    )
    content = h264.read_bytes()
    track = content.index(before, content.index(b"tkhd"))
    shown = read(damaged(h264, track, after))
    capture = cv2.VideoCapture(str(h264.with_name("damaged.mp4")))
    expected = capture.read()[1]
    capture.release()
    assert isinstance(shown[0], np.ndarray)
    assert shown[0].shape == (160, 120, 3)
    assert float(np.abs(shown[0].astype(int) - expected).mean()) < 8


def test_a_picture_larger_than_the_limit_is_not_decoded(h264: Path) -> None:
    reader = VideoReader(str(h264), max_pixels=1000)
    assert all(isinstance(content, FrameError) for content, _ in reader)
    reader.release()
