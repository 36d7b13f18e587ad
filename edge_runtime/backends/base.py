"""What the runtime asks of an inference engine, in four verbs: load, bind, run, close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


class Engine(Protocol):
    """One component, loaded."""

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """Fix the memory that the engine reads and writes; calling the result runs it.

        Arrays are C-contiguous and stay where they are. An input and an output may be the same array where the
        component appends to it in place (key/value caches). One engine may have many bindings.

        Raises:
            BackendError: here for a name, type or shape that the engine does not have; from the call where it fails.
        """

    def close(self) -> None:
        """Give the memory back; bindings must not be called afterwards."""


class Backend(Protocol):
    """An inference engine library, set up once a process."""

    def load(self, graph: Path) -> Engine:
        """Load a component from its engine file.

        Raises:
            BackendError: the library refuses the file.
        """
