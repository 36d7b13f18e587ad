"""Where frames come from: a folder, a video, a camera.

Knows OpenCV's readers and nothing of models. A damaged image is a frame too, whose
picture raises :class:`FrameError`; a source that cannot be opened raises :class:`SourceError`.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, SourceError
from edge_runtime.vision.image_decoding import STANDARD, DecodingRules, decode_image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_DECODED_SHARE = 0.99  # of the frames that a container announces, which some only estimate

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcedFrame:
    """A frame and where and when it comes from."""

    content: NDArray[np.uint8] | FrameError  # (H, W, 3), BGR; or what is wrong with it
    name: str  # file name, or "video.mp4#12"
    stamp_s: float  # since the start of a video or stream; of images in a folder their number

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture: uint8 (H, W, 3), BGR; raises :class:`FrameError` where it is damaged."""
        if isinstance(self.content, FrameError):
            raise self.content
        return self.content


class FrameSource(ABC):
    """Iterates over frames; must be closed."""

    is_live = False  # whether frames are lost unless they are read in time
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
    """Open what ``source`` names: a folder of images, one image, a video file, a bag, or a camera's number.

    A bag is a ROS recording: ``flight.mcap``, or where it has several topics of images ``flight.mcap#/front/image``.

    Raises:
        SourceError: there is nothing to read frames from.
        MissingDependencyError: it is a bag, and the library that reads bags is not installed.
    """
    from edge_runtime.stream.bags import BagSource, is_bag  # not before there is the FrameSource that it derives from

    if source.isdecimal() and len(source) < 4:  # more digits than cameras have: a file, or a mistake
        return CameraSource(int(source))
    path = Path(source)
    try:
        bag, _, topic = source.partition("#")
        if is_bag(Path(bag)):
            return BagSource(Path(bag), topic)
        if path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
            return ImageSource(path)
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise SourceError(f"{source!r} cannot be read: {error}") from error
    if not exists:
        raise SourceError(
            f"there is no {source!r}; give a folder of images, a video file, a bag, or a camera number such as 0"
        )
    return VideoSource(path)


def load_image(path: str | Path, rules: DecodingRules = STANDARD) -> NDArray[np.uint8]:
    """Read one image file: uint8 (H, W, 3), BGR, upright as its EXIF orientation says.

    Raises:
        FrameError: the file is missing, truncated, damaged, no image, or not to be decoded by ``rules``.
    """
    try:
        encoded = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise FrameError(f"{path} cannot be read: {error}") from error
    return decode_image(encoded, str(path), rules)


class ImageSource(FrameSource):
    """One image, or the images of a folder in the order of their names: frame2 before frame10."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.iterdir(), key=_natural) if path.is_dir() else [path]
        self._files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        if not self._files:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def __iter__(self) -> Iterator[SourcedFrame]:
        for index, file in enumerate(self._files):
            yield SourcedFrame(_content(file, self.rules), file.name, float(index))


def _content(file: Path, rules: DecodingRules) -> NDArray[np.uint8] | FrameError:
    try:
        return load_image(file, rules)
    except FrameError as error:
        return error


def _natural(file: Path) -> tuple[list[str | int], str]:
    """A sorting key of a name by which numbers in it count as numbers; words and numbers alternate."""
    words = re.split(r"(\d+)", file.name)
    return [int(word) if position % 2 else word for position, word in enumerate(words)], file.name


class VideoSource(FrameSource):
    """A video file, frame by frame; warns where it ends before it should."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture = _open_capture(
            str(path), f"{path} is no video that OpenCV can read; re-encode it: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
        )

    def __iter__(self) -> Iterator[SourcedFrame]:
        frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 30.0
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # negative or 0 where a container does not say
        index = 0
        while (image := _read(self._capture)) is not None:
            yield SourcedFrame(image, f"{self._path.name}#{index}", index / frames_per_second)
            index += 1
        if index == 0:
            raise SourceError(f"{self._path} has no frame that OpenCV can decode; re-encode it with ffmpeg")
        if index < _DECODED_SHARE * announced - 1:
            _log.warning("%s: %d frames of %.0f could be decoded; was it cut short?", self._path, index, announced)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class CameraSource(FrameSource):
    """A camera, frame by frame, without end.

    One that stops is opened again, until it has given nothing for ``patience_s``. ``open_capture`` opens it: what it
    gives reads frames as ``cv2.VideoCapture`` does.
    """

    is_live = True

    def __init__(
        self,
        number: int,
        patience_s: float = 10.0,
        retry_s: float = 0.5,
        open_capture: Callable[[int], cv2.VideoCapture] | None = None,
    ) -> None:
        self._number = number
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._open = open_capture or _open_camera
        self._capture = self._open(number)

    def __iter__(self) -> Iterator[SourcedFrame]:
        started_s = seen_s = time.monotonic()
        index = 0
        while True:
            image = _read(self._capture)
            now_s = time.monotonic()
            if image is not None:
                seen_s = now_s
                yield SourcedFrame(image, f"camera{self._number}#{index}", now_s - started_s)
                index += 1
            elif now_s - seen_s > self._patience_s:
                raise SourceError(f"camera {self._number} gave no frame for {self._patience_s:g} s; is it still there?")
            else:
                self._reopen()

    def _reopen(self) -> None:
        _log.info("camera %d gives no frame; opening it again", self._number)
        self._capture.release()
        time.sleep(self._retry_s)
        with suppress(SourceError):  # not back yet
            self._capture = self._open(self._number)

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def _open_camera(number: int) -> cv2.VideoCapture:
    return _open_capture(number, f"camera {number} cannot be opened; is it plugged in, and free? ls /dev/video*")


def _open_capture(device: str | int, otherwise: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        raise SourceError(otherwise)
    return capture


def _read(capture: cv2.VideoCapture) -> NDArray[np.uint8] | None:
    got, image = capture.read()
    return np.asarray(image, np.uint8) if got else None
