"""Writes serialized ROS messages into an MCAP file that Foxglove opens; knows no topic and no ROS library.

Every message is a chunk of its own, so that it is on its way to the disk at once: what :meth:`McapFile.sync` has
returned from outlives a power cut. The index comes at the end; a file without one is read from its start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edge_runtime.errors import FlightLogError, MissingDependencyError

try:
    from mcap.writer import CompressionType, Writer
except ImportError as error:
    raise MissingDependencyError(f"cannot record: {error}; pip install '.[bags]' in a checkout") from error

_LIBRARY = "edge-runtime inspection_ros"


class McapFile:
    """A new file at ``path``; must be closed. ``definition_of`` gives the text that defines a type of message.

    Raises:
        FlightLogError: the file exists, or cannot be written (a full disk, say); ``write`` and ``sync`` raise it too.
    """

    def __init__(self, path: Path, definition_of: Callable[[str], str]) -> None:
        self._path = path
        self._definition_of = definition_of
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
            self._writer = Writer(self._file, chunk_size=1, compression=CompressionType.NONE)
            self._writer.start(profile="ros2", library=_LIBRARY)
        except OSError as error:
            raise self._error(error) from error

    def write(self, topic: str, type_name: str, data: bytes, log_ns: int) -> None:
        """Append one message: ``data`` as it goes over the wire, received at ``log_ns``."""
        try:
            if type_name not in self._schemas:
                definition = self._definition_of(type_name).encode()
                self._schemas[type_name] = self._writer.register_schema(type_name, "ros2msg", definition)
            if topic not in self._channels:
                self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[type_name])
            self._writer.add_message(self._channels[topic], log_time=log_ns, publish_time=log_ns, data=data)
        except OSError as error:
            raise self._error(error) from error

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Write the index and close the file."""
        try:
            self._writer.finish()
            self.sync()
            self._file.close()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> FlightLogError:
        return FlightLogError(f"cannot write recording {self._path}: {error}; free the disk or name another folder")
