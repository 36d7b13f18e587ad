"""Where frames come from: a folder, a video, a camera.

Knows readers of pictures and videos, and nothing of models. A damaged image is a frame too, whose
picture raises :class:`FrameError`; a source that cannot be opened raises :class:`SourceError`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, SourceError
from edge_runtime.stream.video_reader import Content, VideoReader
from edge_runtime.vision.image_decoding import STANDARD, DecodingRules, check_size, decode_image
from edge_runtime.vision.image_header import ExifData, exif_data, is_image, unread_format

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"})

_DECODED_SHARE = 0.99  # of the frames that a container announces, which some only estimate

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcedFrame:
    """A frame and where and when it comes from."""

    content: Content  # (H, W, 3), BGR; or what is wrong with it
    name: str  # file name, or "video.mp4#12"
    stamp_s: float | None  # its own time, since the source's first frame that has one; None where it has none
    place: str = ""  # where it was taken, in words, where that is known

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture: uint8 (H, W, 3), BGR; raises :class:`FrameError` where it is damaged."""
        if isinstance(self.content, FrameError):
            raise self.content
        return self.content


class FrameSource(ABC):
    """Iterates over frames; must be closed."""

    is_live = False  # whether frames are lost unless they are read in time
    is_continuous = True  # whether one frame shows what the one before showed, and defects can be followed
    rules = STANDARD  # by which pictures are decoded; may be set until the first frame is asked for

    @abstractmethod
    def __iter__(self) -> Iterator[SourcedFrame]:
        """Frames in order, damaged ones too; raises :class:`SourceError` where the source vanishes."""

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures of those that are whole; the others are warned of."""
        for frame in self:
            if isinstance(frame.content, FrameError):
                _log.warning("failed: %s: %s", frame.name, frame.content)
            else:
                yield frame.content

    def close(self) -> None:  # noqa: B027
        """Release the device or file."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(source: str) -> FrameSource:
    """Open what ``source`` names: a folder of images, one image, a video file, a bag, or a camera.

    A bag is a ROS recording: ``flight.mcap``, or where it has several topics of images ``flight.mcap#/front/image``. A
    camera is its number, its device (``/dev/video0``), an address (``rtsp://...``, ``http://...``), or a GStreamer
    pipeline, whose elements are parted by `` ! `` and whose last is ``appsink``.

    Raises:
        SourceError: there is nothing to read frames from.
        MissingDependencyError: it is a bag, and the library that reads bags is not installed.
    """
    from edge_runtime.stream.bags import BagSource, is_bag  # not before there is the FrameSource that it derives from

    if source.isdecimal() and len(source) < 4:  # more digits than cameras have: a file, or a mistake
        return CameraSource(int(source))
    if _ADDRESS.match(source) or _ELEMENTS in source:
        return CameraSource(source, patience_s=_NETWORK_PATIENCE_S)
    if source == "-":
        raise SourceError(
            "standard input is not read; save it to a file, or name a camera's address such as rtsp://..."
        )
    path = Path(source)
    try:
        bag, _, topic = source.partition("#")
        if is_bag(Path(bag)):
            return BagSource(Path(bag), topic)
        if path.is_char_device():
            return CameraSource(source)
        if path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
            return ImageSource(path)
        exists, is_file = path.exists(), path.is_file()
        head = _head(path) if is_file else b""
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(source)!r} cannot be read: {error}") from error
    if not is_file:
        name = repr(shown(source))
        what = f"{name} is neither a file, a folder nor a camera" if exists else f"there is no {name}"
        raise SourceError(
            f"{what}; give a folder of images, a video file, a bag, a camera number such as 0, /dev/video0, or an "
            "address such as rtsp://camera/stream"
        )
    if path.name.endswith((".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")):
        raise SourceError(
            f"{shown(source)} is a compressed file of a bag; name the folder in which it lies, or unzstd it"
        )
    if (known := unread_format(head)) in (
        "HEIC",
        "AVIF",
        "CR3",
        "JPEG 2000",
        "JPEG XL",
        "Photoshop",
        "BigTIFF",
        "OpenEXR",
    ):
        raise SourceError(f"{shown(source)} is {known}, which is not read; convert it to JPEG, PNG, BMP, TIFF or WebP")
    return ImageSource(path) if is_image(head) else VideoSource(path)


_ADDRESS = re.compile(r"(rtsps?|https?|rtmps?|udp|tcp|srt|rtp)://", re.IGNORECASE)
_ELEMENTS = " ! "  # between those of a GStreamer pipeline
_NETWORK_PATIENCE_S = 25.0  # for which an address is tried again; less than a stream waits for its source
_NETWORK_TIMEOUT_S = 5.0  # of opening it, and of one read


def shown(name: str | Path) -> str:
    """A source's name as it can be printed and kept: without a password, and without bytes that are no UTF-8."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"(?<=://)([^/@\s:]+):[^/@\s]+@", r"\1:***@", text)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def load_image(path: str | Path, rules: DecodingRules = STANDARD) -> NDArray[np.uint8]:
    """Read one image file: uint8 (H, W, 3), BGR, upright as its EXIF orientation says.

    Raises:
        FrameError: the file is missing, truncated, damaged, no image, or not to be decoded by ``rules``.
    """
    return decode_image(_encoded(path), shown(path), rules)


def _encoded(path: str | Path) -> bytes:
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would never end
            raise FrameError(f"{shown(path)} cannot be read: it is no file")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"{shown(path)} cannot be read: {error}") from error


class ImageSource(FrameSource):
    """One image, or the images of a folder in the order of their names: frame2 before frame10.

    What else lies in the folder is passed over, counted by kind, and warned of. A frame's time and place are EXIF's.
    """

    is_continuous = False  # photographs of a folder need not have anything to do with each other

    def __init__(self, path: Path) -> None:
        files = sorted(path.iterdir(), key=_natural) if path.is_dir() else [path]
        kinds = {file: _passed_over(file) for file in files} if path.is_dir() else {path: ""}
        self._files = [file for file, kind in kinds.items() if not kind]
        passed_over = Counter(kind for kind in kinds.values() if kind)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
        if not self._files:
            found = f"; found {counts}" if counts else ""
            raise SourceError(f"{shown(path)} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}){found}")
        if passed_over:
            _log.warning("%s: %d passed over: %s", shown(path), passed_over.total(), counts)

    def __iter__(self) -> Iterator[SourcedFrame]:
        first_s: float | None = None
        for file in self._files:
            content, exif = _content(file, self.rules)
            if first_s is None:
                first_s = exif.taken_s
            stamp_s = None if exif.taken_s is None or first_s is None else exif.taken_s - first_s
            yield SourcedFrame(content, shown(file.name), stamp_s, _place(exif))


def _passed_over(file: Path) -> str:
    """What kind of entry of a folder is passed over; empty for an image."""
    if file.name.startswith("."):  # what macOS puts beside images, ._photo.jpg, ends like them
        return "hidden"
    if file.is_dir():
        return "folders"
    if not file.is_file():
        return "links that lead nowhere" if file.is_symlink() else "pipes or devices"
    return "" if file.suffix.lower() in IMAGE_SUFFIXES else shown(file.suffix.lower() or "files without a suffix")


def _content(file: Path, rules: DecodingRules) -> tuple[NDArray[np.uint8] | FrameError, ExifData]:
    try:
        encoded = _encoded(file)
        exif = exif_data(encoded)
    except FrameError as error:
        return error, ExifData()
    try:
        return decode_image(encoded, shown(file), rules), exif
    except FrameError as error:
        return error, exif


def _place(exif: ExifData) -> str:
    if exif.position is None:
        return ""
    latitude, longitude = exif.position
    return f"{latitude:.6f}, {longitude:.6f}"


def _natural(file: Path) -> tuple[list[str | int], str]:
    """A sorting key of a name by which numbers in it count as numbers; words and numbers alternate."""
    words = re.split(r"(\d+)", file.name)
    return [int(word) if position % 2 else word for position, word in enumerate(words)], file.name


class VideoSource(FrameSource):
    """A video file, frame by frame, damaged ones too, each with its presentation time; warns of an early end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        advice = "its index is missing, as the recording was cut short; a tool such as untrunc can recover it"
        if not _is_cut_mp4(path):
            advice = "re-encode it: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
        self._reader = _open_video(str(path), f"{shown(path)} is no video that can be read; {advice}")

    def __iter__(self) -> Iterator[SourcedFrame]:
        reader = self._reader
        try:
            check_size(reader.width, reader.height, self.rules)
        except FrameError as error:
            raise SourceError(f"{shown(self._path)} {error}") from error
        index, decoded, first_s, last_s = 0, 0, 0.0, -1.0
        for content, time_s in _without_end_errors(reader, self._path):
            decoded += not isinstance(content, FrameError)
            stamp_s = None
            if time_s is not None:
                first_s = time_s if index == 0 else first_s
                stamp_s = time_s - first_s if time_s - first_s > last_s else None  # some containers give one twice
            last_s = last_s if stamp_s is None else stamp_s
            yield SourcedFrame(_checked(content, self.rules), f"{shown(self._path.name)}#{index}", stamp_s)
            index += 1
        if decoded == 0:
            raise SourceError(f"{shown(self._path)} has no frame that can be decoded; re-encode it with ffmpeg")
        announced, duration_s = reader.frames, reader.duration_s
        # Of a variable frame rate, the number of frames is estimated, and only the time tells.
        if index < _DECODED_SHARE * announced - 1 and last_s + duration_s / index < _DECODED_SHARE * duration_s:
            _log.warning(
                "%s: %d frames of %d could be decoded; was it cut short?", shown(self._path), decoded, announced
            )

    def close(self) -> None:
        """Close the file."""
        self._reader.release()


def _without_end_errors(reader: VideoReader, path: Path) -> Iterator[tuple[Content, float | None]]:
    """The frames up to where the container cannot be read any further, which is warned of."""
    try:
        yield from reader
    except SourceError as error:
        _log.warning("%s: %s", shown(path), error)


def _checked(content: Content, rules: DecodingRules) -> Content:
    """A frame, or what is wrong with it: its size too, which a stream may change."""
    if isinstance(content, FrameError):
        return content
    try:
        check_size(content.shape[1], content.shape[0], rules)
    except FrameError as error:
        return FrameError(f"the frame {error}")
    return content


def _is_cut_mp4(path: Path) -> bool:
    """Whether a file begins as MP4 or QuickTime do and has no index, which cameras write at the end."""
    try:
        with path.open("rb") as file:
            boxes = set()
            while len(head := file.read(8)) == 8:
                size_bytes, name = int.from_bytes(head[:4], "big"), head[4:]
                boxes.add(name)
                if size_bytes == 1:
                    size_bytes = int.from_bytes(file.read(8), "big") - 8
                if size_bytes < 8:
                    break
                file.seek(size_bytes - 8, os.SEEK_CUR)
    except (OSError, ValueError, OverflowError):
        return False
    return b"ftyp" in boxes and b"moov" not in boxes


class Capture(Protocol):
    """What a camera is read by, as ``cv2.VideoCapture`` is."""

    def read(self) -> tuple[bool, Any]:
        """Whether there is a next frame; and it, or the :class:`FrameError` that says what is wrong with it."""

    def release(self) -> None:
        """Close it."""


class CameraSource(FrameSource):
    """A camera, frame by frame, without end: its number, its device, an address, or a GStreamer pipeline.

    One that stops is opened again, until it has given nothing for ``patience_s``. ``open_capture`` opens it: what it
    gives reads frames as ``cv2.VideoCapture`` does.
    """

    is_live = True

    def __init__(
        self,
        device: int | str,
        patience_s: float = 10.0,
        retry_s: float = 0.5,
        open_capture: Callable[[int | str], Capture] | None = None,
    ) -> None:
        self._device = device
        self._name = f"camera{device}" if isinstance(device, int) else shown(device)
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._open = open_capture or _open_camera
        self._capture = self._open(device)

    def __iter__(self) -> Iterator[SourcedFrame]:
        started_s = seen_s = time.monotonic()
        index = 0
        while True:
            got, content = self._capture.read()
            now_s = time.monotonic()
            if got and content is not None:
                seen_s = now_s
                yield SourcedFrame(_checked(content, self.rules), f"{self._name}#{index}", now_s - started_s)
                index += 1
            elif now_s - seen_s > self._patience_s:
                raise SourceError(f"{self._name} gave no frame for {self._patience_s:g} s; is it still there?")
            else:
                self._reopen()

    def _reopen(self) -> None:
        _log.warning("%s gives no frame; opening it again", self._name)
        self._capture.release()
        time.sleep(self._retry_s)
        with suppress(SourceError):  # not back yet
            self._capture = self._open(self._device)

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def _open_camera(device: int | str) -> Capture:
    if isinstance(device, int):
        return _open_capture(device, f"camera {device} cannot be opened; is it plugged in, and free? ls /dev/video*")
    if _ELEMENTS in device:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                "the installed OpenCV has no GStreamer, so that no pipeline can be opened; JetPack's own OpenCV has it"
            )
        return _open_capture(
            device, f"the pipeline {device!r} cannot be opened; try it with gst-launch-1.0", cv2.CAP_GSTREAMER
        )
    if _ADDRESS.match(device):
        return _open_video(
            device, f"{shown(device)} gives no video; try it with: ffplay {shown(device)}", _NETWORK_TIMEOUT_S
        )
    return _open_capture(
        device, f"{device} cannot be opened; is it a camera, and free? v4l2-ctl --list-devices", cv2.CAP_V4L2
    )


def _open_video(address: str, otherwise: str, timeout_s: float | None = None) -> VideoReader:
    try:
        return VideoReader(address, timeout_s)
    except SourceError as error:
        raise SourceError(otherwise) from error


def _open_capture(device: str | int, otherwise: str, backend: int = cv2.CAP_ANY) -> Capture:
    try:
        capture = cv2.VideoCapture(device, backend)
    except cv2.error as error:
        raise SourceError(otherwise) from error
    if not capture.isOpened():
        raise SourceError(otherwise)
    return capture
