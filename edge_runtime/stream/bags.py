"""A recorded bag as a camera: ROS 2 (mcap, sqlite3) and ROS 1, read without a ROS installation."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, MissingDependencyError, SourceError
from edge_runtime.ros.messages import frame_from_compressed, frame_from_image, nanoseconds
from edge_runtime.stream.sources import FrameSource, SourcedFrame
from edge_runtime.vision.image_decoding import DecodingRules

SUFFIXES = frozenset({".bag", ".db3", ".mcap"})

_MCAP_START = b"\x89MCAP0\r\n"
_RECORD, _CHUNK = struct.Struct("<BQ"), 6  # of an MCAP file: what a record is, and the bytes that follow
_CHUNK_BYTES = 64_000_000  # what a chunk may always take: recorders fill some to 4 MB, or to one message
_PIXEL_BYTES = 8  # of 16 bits and 4 channels

_TO_FRAME: dict[str, Callable[[Any, DecodingRules], NDArray[np.uint8]]] = {
    "sensor_msgs/msg/Image": frame_from_image,
    "sensor_msgs/msg/CompressedImage": frame_from_compressed,
}


def is_bag(path: Path) -> bool:
    """Whether ``path`` names a bag: a file by its suffix, or the folder that ``ros2 bag record`` makes."""
    if path.is_file():
        return path.suffix in SUFFIXES
    try:
        with (path / "metadata.yaml").open("rb") as file:
            return b"rosbag2_bagfile_information" in file.read(4096)  # other tools' folders have such a file, too
    except OSError:
        return False


def _advice(path: Path) -> str:
    """What to do about a file that cannot be read."""
    if path.suffix != ".mcap":
        return ""
    with path.open("rb") as file:
        begins_well = file.read(len(_MCAP_START)) == _MCAP_START
        file.seek(-min(len(_MCAP_START), path.stat().st_size), 2)
        ends_well = file.read() == _MCAP_START
    if begins_well and not ends_well:  # a power cut
        return f"; its end is missing, as the recording was cut short: mcap recover {path} -o recovered.mcap"
    return ""


def _words(error: Exception) -> str:
    return f"{error}" if type(error).__module__.startswith("rosbags") or isinstance(error, OSError) else f"{error!r}"


def _mcap_chunks(path: Path) -> Iterator[int]:
    """Bytes of each chunk of an MCAP file, decompressed, as its header says; ends where the file does."""
    with path.open("rb") as file:
        file.seek(len(_MCAP_START))
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            kind, size_bytes = _RECORD.unpack(head)
            begins = file.tell()
            if kind == _CHUNK:
                chunk = file.read(24)  # two times, and the size
                yield int.from_bytes(chunk[16:24], "little")
            if begins + size_bytes > path.stat().st_size:  # cut, or damaged: the reader says so
                return
            file.seek(begins + size_bytes)


def _bag_chunks(path: Path) -> Iterator[int]:
    """Bytes of each chunk of a bag of ROS 1, decompressed, as its header says."""
    with path.open("rb") as file:
        file.readline()  # #ROSBAG V2.0
        while len(size := file.read(4)) == 4:
            header = file.read(int.from_bytes(size, "little"))
            data_bytes = int.from_bytes(file.read(4), "little")
            if b"\x04\0\0\0op=\x05" in header and (found := header.find(b"\x09\0\0\0size=")) >= 0:
                yield int.from_bytes(header[found + 9 : found + 13], "little")
            file.seek(data_bytes, 1)


_CHUNKS: dict[str, Callable[[Path], Iterator[int]]] = {".mcap": _mcap_chunks, ".bag": _bag_chunks}


class BagSource(FrameSource):
    """The images of one topic, in the order in which they were recorded; must be closed.

    A frame's time is its header's stamp; where a driver left that 0, the frame has none.

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
        self._path, self._failure = path, AnyReaderError  # what closing a reader that is not open raises
        try:
            # Bags of sqlite3 from Humble define no messages; images are the same in every distribution.
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        except Exception as error:  # the library says many things of bytes that are not what they should be
            raise SourceError(f"bag {path} cannot be read: {_words(error)}{_advice(path)}") from error
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
        self._check_chunks()
        try:
            for index, (connection, _, data) in enumerate(self._reader.messages(connections)):
                content, stamp_ns = self._content(data, connection.msgtype)
                if first_ns is None:
                    first_ns = stamp_ns
                stamp_s = None if stamp_ns is None or first_ns is None else (stamp_ns - first_ns) / 1e9
                yield SourcedFrame(content, f"{self._topic}#{index}", stamp_s)
        except Exception as error:  # of the library; whoever takes frames raises nothing in here
            raise SourceError(f"bag {self._path} is damaged: {_words(error)}") from error

    def _check_chunks(self) -> None:
        """Refuse a bag that would take more memory to decompress than frames may take: zeros shrink to nothing."""
        limit_bytes = max(_CHUNK_BYTES, _PIXEL_BYTES * self.rules.max_pixels)
        files = self._path.iterdir() if self._path.is_dir() else (self._path,)
        for file in files:
            chunks = _CHUNKS.get(file.suffix)
            largest = max(chunks(file), default=0) if chunks else 0
            if largest > limit_bytes:
                raise SourceError(
                    f"bag {file} has a chunk of {largest / 1e6:.0f} MB, and {limit_bytes / 1e6:.0f} MB fit the memory "
                    "budget; raise the budget, or record with smaller chunks"
                )

    def _content(self, data: bytes, kind: str) -> tuple[NDArray[np.uint8] | FrameError, int | None]:
        """The frame, and the nanoseconds of its stamp where that is set."""
        try:
            message: Any = self._reader.deserialize(data, kind)
        except Exception as error:  # of the library
            return FrameError(f"the message is damaged: {_words(error)}"), None
        stamp_ns = nanoseconds(message.header.stamp) or None
        try:
            return _TO_FRAME[kind](message, self.rules), stamp_ns
        except FrameError as error:
            return error, stamp_ns

    def close(self) -> None:
        """Close the file, unless that is done already."""
        with suppress(self._failure):  # of a reader that is not open
            self._reader.close()
