"""A recorded bag as a camera: ROS 2 (mcap, sqlite3) and ROS 1, read without a ROS installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, MissingDependencyError, SourceError
from edge_runtime.ros.messages import frame_from_compressed, frame_from_image
from edge_runtime.stream.sources import FrameSource, SourcedFrame

SUFFIXES = frozenset({".bag", ".db3", ".mcap"})

_TO_FRAME: dict[str, Callable[[Any], NDArray[np.uint8]]] = {
    "sensor_msgs/msg/Image": frame_from_image,
    "sensor_msgs/msg/CompressedImage": frame_from_compressed,
}


def is_bag(path: Path) -> bool:
    """Whether ``path`` names a bag: a file by its suffix, or the folder that ``ros2 bag record`` makes."""
    return (path.suffix in SUFFIXES and path.is_file()) or (path / "metadata.yaml").is_file()


class BagSource(FrameSource):
    """The images of one topic, in the order in which they were recorded; must be closed.

    ``topic`` may be left out where the bag has one topic of images only.

    Raises:
        SourceError: the bag cannot be read, or it is not clear which topic is meant.
        MissingDependencyError: the library that reads bags is not installed.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        try:
            from rosbags.highlevel import AnyReader, AnyReaderError
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise MissingDependencyError(f"cannot read bags: {error}; pip install '.[bags]' in a checkout") from error
        self._path, self._failure = path, AnyReaderError
        try:
            # Bags of sqlite3 from Humble define no messages; images are the same in every distribution.
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        except (AnyReaderError, OSError, ValueError) as error:
            raise SourceError(f"bag {path} cannot be read: {error}") from error
        self._connections = [found for found in self._reader.connections if found.msgtype in _TO_FRAME]
        topics = sorted({found.topic for found in self._connections})
        self._topic = topic or (topics[0] if len(topics) == 1 else "")
        if self._topic not in topics:
            self.close()
            named = f"no images on {topic}" if topic else f"{len(topics)} topics of images"
            choice = f"; name one of them: {path}#{topics[0]} ({', '.join(topics)})" if topics else ""
            raise SourceError(f"bag {path} has {named}{choice}")

    def __iter__(self) -> Iterator[SourcedFrame]:
        connections = [found for found in self._connections if found.topic == self._topic]
        first_ns: int | None = None
        try:
            for index, (connection, recorded_ns, data) in enumerate(self._reader.messages(connections)):
                first_ns = recorded_ns if first_ns is None else first_ns
                name = f"{self._topic}#{index}"
                content = self._content(data, connection.msgtype)
                yield SourcedFrame(content, name, (recorded_ns - first_ns) / 1e9)
        except (self._failure, OSError, ValueError) as error:
            raise SourceError(f"bag {self._path} is damaged: {error}") from error

    def _content(self, data: bytes, kind: str) -> NDArray[np.uint8] | FrameError:
        try:
            return _TO_FRAME[kind](self._reader.deserialize(data, kind))
        except FrameError as error:
            return error
        except self._failure as error:
            return FrameError(str(error))

    def close(self) -> None:
        """Close the file, unless that is done already."""
        with suppress(self._failure):  # of a reader that is not open
            self._reader.close()
