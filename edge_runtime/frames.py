"""Where frames come from (folder, video, camera) and the newest-wins slot between a camera and a worker.

Knows OpenCV's readers and nothing of models. A damaged image is counted and skipped; a source that
cannot be opened raises :class:`SourceError`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, SourceError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcedFrame:
    """A frame and where and when it comes from."""

    image: NDArray[np.uint8]  # (H, W, 3), BGR
    name: str  # file name, or "video.mp4#12"
    stamp_s: float  # since the start of a video or stream; of images in a folder their number


class FrameSource(ABC):
    """Iterates over frames; must be closed."""

    skipped = 0  # damaged frames so far
    is_live = False  # whether frames are lost unless they are read in time

    @abstractmethod
    def __iter__(self) -> Iterator[SourcedFrame]:
        """Frames in order; raises :class:`SourceError` where the source vanishes."""

    def close(self) -> None:  # noqa: B027
        """Release the device or file."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(source: str) -> FrameSource:
    """Open what ``source`` names: a folder of images, one image, a video file, or a camera's number.

    Raises:
        SourceError: there is nothing to read frames from.
    """
    if source.isdecimal():
        return VideoSource(int(source))
    path = Path(source)
    try:
        if path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
            return ImageSource(path)
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise SourceError(f"{source!r} cannot be read: {error}") from error
    if not exists:
        raise SourceError(
            f"there is no {source!r}; give a folder of images, a video file, or a camera number such as 0"
        )
    return VideoSource(path)


def load_image(path: str | Path) -> NDArray[np.uint8]:
    """Read one image file: uint8 (H, W, 3), BGR, upright as its EXIF orientation says.

    Raises:
        FrameError: the file is missing, truncated or no image.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        raise FrameError(f"{path} cannot be read: {error}") from error
    image = decode_image(encoded)
    if image is None:
        raise FrameError(f"{path} is damaged or no image ({encoded.size} bytes); copy it again or leave it out")
    return image


def decode_image(encoded: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Decode the bytes of an image file to uint8 (H, W, 3), BGR; None where they are damaged.

    OpenCV fills what a truncated JPEG lacks with grey and says nothing, so its end mark is looked for first.
    """
    if encoded.size == 0 or _is_truncated_jpeg(encoded):
        return None
    try:
        image: Any = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:  # absurd dimensions in a header
        return None
    return image  # type: ignore[no-any-return]


def _is_truncated_jpeg(encoded: NDArray[np.uint8]) -> bool:
    if bytes(encoded[:2]) != b"\xff\xd8":
        return False
    return b"\xff\xd9" not in bytes(encoded[-65536:])  # cameras append thumbnails and padding after the mark


class ImageSource(FrameSource):
    """One image, or the images of a folder in the order of their names."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        self._files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        if not self._files:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def __iter__(self) -> Iterator[SourcedFrame]:
        for index, file in enumerate(self._files):
            image = self._load_or_skip(file)
            if image is not None:
                yield SourcedFrame(image, file.name, float(index))

    def _load_or_skip(self, file: Path) -> NDArray[np.uint8] | None:
        try:
            return load_image(file)
        except FrameError as error:
            self.skipped += 1
            _log.warning("skipped: %s", error)
            return None


class VideoSource(FrameSource):
    """A video file or a camera, frame by frame.

    A camera that stops is opened again for ``patience_s`` before :class:`SourceError` says that it is gone.
    """

    def __init__(self, device: Path | int, patience_s: float = 10.0) -> None:
        self._device = device
        self.is_live = isinstance(device, int)
        self._patience_s = patience_s
        self._capture = _open_capture(device)

    def __iter__(self) -> Iterator[SourcedFrame]:
        name = f"camera{self._device}" if self.is_live else Path(str(self._device)).name
        frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 30.0
        started_s = time.monotonic()
        index = 0
        while True:
            image = self._read()
            if image is not None:
                stamp_s = time.monotonic() - started_s if self.is_live else index / frames_per_second
                yield SourcedFrame(image, f"{name}#{index}", stamp_s)
                index += 1
            elif self.is_live:
                self._reopen()
            elif index == 0:
                raise SourceError(
                    f"{self._device} opened but has no frame that can be decoded; re-encode it with ffmpeg"
                )
            else:
                return

    def _read(self) -> NDArray[np.uint8] | None:
        got, image = self._capture.read()
        return np.asarray(image, np.uint8) if got else None

    def _reopen(self) -> None:
        _log.warning("camera %s stopped; opening it again", self._device)
        deadline_s = time.monotonic() + self._patience_s
        while True:
            self._capture.release()
            time.sleep(0.5)
            try:
                self._capture = _open_capture(self._device)
            except SourceError as error:
                if time.monotonic() > deadline_s:
                    raise SourceError(f"camera {self._device} stopped and did not come back") from error
            else:
                return

    def close(self) -> None:
        """Release the device or file."""
        self._capture.release()


def _open_capture(device: Path | int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(device if isinstance(device, int) else str(device))
    if not capture.isOpened():
        raise SourceError(
            f"camera {device} cannot be opened; is it plugged in, and free? ls /dev/video*"
            if isinstance(device, int)
            else f"{device} is no video that OpenCV can read; re-encode it: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4"
        )
    return capture


T = TypeVar("T")


class NewestSlot(Generic[T]):
    """Holds the newest item only: an inspection that is late must not make the next one later.

    Any thread may put or take. An item that is replaced before it was taken counts as dropped.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Replace whatever waits; never blocks. After :meth:`close` the item is dropped."""
        with self._changed:
            if self._item is not None or self._closed:
                self.dropped += 1
            if not self._closed:
                self._item = item
                self._changed.notify()

    def take(self, timeout_s: float) -> T | None:
        """The newest item, at once or when one comes; None after ``timeout_s`` or when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Wake whoever waits; what is still held can be taken, nothing more can be put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
