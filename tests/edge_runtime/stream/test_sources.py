"""Frames come from folders, videos and cameras; what is damaged says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import FrameError, SourceError
from edge_runtime.stream.sources import CameraSource, load_image, open_source, shown
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
    assert (damaged.name, damaged.stamp_s) == ("aa.jpg", None)
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


def test_whatever_is_passed_over_in_a_folder_is_counted_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("c.heic", "d.HEIC", "e.gif", "._a.jpg", ".hidden.png"):
        (folder / name).write_bytes(b"not read")
    (folder / "inner.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    with open_source(str(folder)) as source:
        assert [frame.name for frame in source] == ["a.JPG", "b.jpg"]
    assert (
        "9 passed over: 1 .gif, 2 .heic, 1 .txt, 1 folders, 2 hidden, 1 links that lead nowhere, 1 pipes or devices"
        in caplog.text
    )


def test_an_image_is_one_by_whatever_name(tmp_path: Path) -> None:
    for name in ("a.jfif", "b", "c.dat"):
        (tmp_path / name).write_bytes(jpeg(50))
        with open_source(str(tmp_path / name)) as source:
            assert [frame.image.shape for frame in source] == [(64, 64, 3)]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg"])
def test_a_heic_is_called_one_and_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(FrameError, match="is HEIC, which is not read; convert it"):
        load_image(tmp_path / name)
    with (
        pytest.raises((FrameError, SourceError), match="is HEIC, which is not read"),
        open_source(str(tmp_path / name)) as source,
    ):
        _ = next(iter(source)).image


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FrameError, match="it is no file"):
        load_image(tmp_path / "pipe.jpg")
    with pytest.raises(SourceError, match="is neither a file, a folder nor a camera"):
        open_source(str(tmp_path / "pipe.jpg"))


def test_a_name_that_is_no_utf_8_can_be_printed(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(path)).write_bytes(jpeg(50))
    with open_source(str(tmp_path)) as source:
        [frame] = source
    assert frame.name == "caf\\xe9.jpg"
    assert frame.image.shape == (64, 64, 3)


def photographed(path: Path, taken: str, position: tuple[int, int] | None = None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = taken
    if position is not None:
        exif.get_ifd(0x8825).update({1: "S", 2: (position[0], 30, 0), 3: "E", 4: (position[1], 15, 0)})
    Image.new("RGB", (16, 16)).save(path, exif=exif.tobytes())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_photograph_has_the_time_and_the_place_of_its_exif(tmp_path: Path, suffix: str) -> None:
    photographed(tmp_path / f"1{suffix}", "2026:05:01 23:59:50", position=(33, 151))
    (tmp_path / "2.jpg").write_bytes(jpeg(50))
    photographed(tmp_path / f"3{suffix}", "2026:05:02 00:00:05")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [frame.stamp_s for frame in frames] == [0.0, None, 15.0]
    assert [frame.place for frame in frames] == ["-33.500000, 151.250000", "", ""]


def test_no_address_is_shown_with_its_password() -> None:
    assert shown("rtsp://pilot:secret@10.0.0.2:8554/front") == "rtsp://pilot:***@10.0.0.2:8554/front"
    with pytest.raises(SourceError) as caught:
        open_source("http://pilot:secret@127.0.0.1:9/front")
    assert "secret" not in str(caught.value)


def test_a_pipeline_is_refused_where_opencv_has_no_gstreamer() -> None:
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="JetPack's own OpenCV has it"):
        open_source("videotestsrc ! videoconvert ! appsink")


def test_a_device_that_is_no_camera_and_standard_input_are_refused() -> None:
    with pytest.raises(SourceError, match="v4l2-ctl"):
        open_source("/dev/null")
    with pytest.raises(SourceError, match="standard input is not read"):
        open_source("-")


class MotionJpeg(BaseHTTPRequestHandler):
    """A network camera that gives three frames a connection, and then hangs up."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for level in (50, 100, 150):
            picture = jpeg(level)
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n" % len(picture) + picture + b"\r\n")

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def test_a_camera_in_the_network_is_opened_again_when_it_hangs_up(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/camera.mjpg"
        with open_source(address) as source:
            assert source.is_live
            frames = list(islice(source, 7))
        server.shutdown()
    assert [frame.name for frame in frames] == [f"{address}#{index}" for index in range(7)]
    assert all(frame.image.shape == (64, 64, 3) for frame in frames)
    assert "opening it again" in caplog.text


RTSP_SERVER = """
import asyncio, sys
from aio_rtsp_toolkit.server import serve
asyncio.run(serve(sys.argv[1], "127.0.0.1", int(sys.argv[2]), control_port=int(sys.argv[3])))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def rtsp_camera(tmp_path: Path) -> Iterator[str]:
    """The address of a real RTSP server that shows 10 frames, and then hangs up."""
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(10):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * level, np.uint8), "bgr24"))
            )
        container.mux(stream.encode())
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", RTSP_SERVER, str(tmp_path), str(port), str(free_port())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
            time.sleep(0.1)
        yield f"rtsp://127.0.0.1:{port}/film.mp4"
    finally:
        server.kill()
        server.wait()


def test_an_rtsp_camera_is_read_and_opened_again_when_it_hangs_up(
    rtsp_camera: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_source(rtsp_camera) as source:
        frames = list(islice(source, 12))
    assert [frame.name for frame in frames] == [f"{rtsp_camera}#{index}" for index in range(12)]
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert "opening it again" in caplog.text


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
    whole = [frame for frame in frames if not isinstance(frame.content, FrameError)]
    assert f"{len(whole)} frames of 20 could be decoded" in caplog.text
    assert 0 < len(frames) < 20


VARIABLE_S = [0.0, 0.03, 0.06, 0.5, 2.5, 4.5, 4.53]


def test_the_times_of_a_variable_frame_rate_are_the_containers_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp_s in VARIABLE_S:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "bgr24")
            frame.pts, frame.time_base = round(1000 * stamp_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_source(str(path)) as source:
        stamps_s = [frame.stamp_s for frame in source]
    assert stamps_s == pytest.approx(VARIABLE_S, abs=0.002)
    assert "cut short" not in caplog.text


def test_an_mp4_whose_index_is_missing_is_called_cut_short(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x14ftypisom\0\0\0\0isom" + b"\0\1\0\0mdat" + bytes(5000))
    with pytest.raises(SourceError, match="its index is missing, as the recording was cut short"):
        open_source(str(tmp_path / "film.mp4"))


def test_a_compressed_file_of_a_bag_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "flight_0.mcap.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(SourceError, match="name the folder in which it lies, or unzstd it"):
        open_source(str(tmp_path / "flight_0.mcap.zstd"))


def test_a_camera_that_stops_is_opened_again_and_goes_on() -> None:
    captures = [FakeCapture(2), FakeCapture(0), FakeCapture(3)]
    opened = iter(captures)
    with CameraSource(7, retry_s=0.0, open_capture=lambda device: next(opened)) as source:
        names = [frame.name for frame in islice(source, 5)]
    assert names == [f"camera7#{index}" for index in range(5)]
    assert all(capture.released for capture in captures)


def test_a_camera_that_cannot_be_opened_again_at_once_is_waited_for() -> None:
    answers = iter([FakeCapture(1), SourceError("busy"), SourceError("busy"), FakeCapture(1)])

    def open_capture(device: int | str) -> FakeCapture:
        answer = next(answers)
        if isinstance(answer, SourceError):
            raise answer
        return answer

    with CameraSource(0, retry_s=0.0, open_capture=open_capture) as source:
        assert [frame.name for frame in islice(source, 2)] == ["camera0#0", "camera0#1"]


def test_a_camera_that_does_not_come_back_is_given_up() -> None:
    with (
        CameraSource(0, patience_s=0.05, retry_s=0.01, open_capture=lambda device: FakeCapture(0)) as source,
        pytest.raises(SourceError, match="gave no frame"),
    ):
        next(iter(source))


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(SourceError, match="plugged in"):
        open_source("63")
