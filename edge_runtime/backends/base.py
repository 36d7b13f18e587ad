"""What the runtime asks of an inference engine: memory, engines bound to it, and the bytes that both take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Run = Callable[[], None]


class Memory(Protocol):
    """Memory of a backend, in C order: a NumPy array, or a handle where only engines can touch it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all dimensions."""

    @property
    def dtype(self) -> Any:
        """NumPy's type of the elements."""

    def __getitem__(self, slices: Any, /) -> Any:
        """A view, as NumPy slices."""


class Engine(Protocol):
    """One component, loaded."""

    def bind(self, inputs: Mapping[str, Memory], outputs: Mapping[str, Memory]) -> Run:
        """Fix the memory that the engine reads and writes; calling the result runs it.

        Memory is the backend's own, and contiguous. An input and an output may be the same memory where the component
        appends to it in place (key/value caches). One engine may have many bindings. A run may still be under way
        when the call returns: runs happen one after another, and ``Backend.synchronize`` waits for them.

        Raises:
            BackendError: here for a name, type or shape that the engine does not have; from the call, or from waiting
                for it, where it fails.
        """

    def close(self) -> None:
        """Give the memory back; bindings must not be called afterwards."""


class Backend(Protocol):
    """An inference engine library and the device that it runs on; must be closed, after its engines."""

    @property
    def step_rows(self) -> int:
        """The most rows that are best run in one step; longer prompts are run in several."""

    @property
    def held_bytes(self) -> int:
        """What engines and memory take at this moment, on a scale of the backend's own: compare two readings."""

    @property
    def frees_memory(self) -> bool:
        """Whether memory goes back as soon as nobody refers to it, and not only when the backend is closed."""

    def load(self, graph: Path) -> Engine:
        """Load a component from its engine file.

        Raises:
            BackendError: the library refuses the file.
            BudgetExceededError: it would take more than the backend was allowed, or than there is.
        """

    def shared(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Zeros that Python and engines both touch; nothing is copied on the way. Valid until the backend is closed."""

    def private(self, shape: Sequence[int], dtype: DTypeLike) -> Memory:
        """Zeros that only engines touch. Valid until the backend is closed."""

    def clear(self, memory: Memory) -> None:
        """Make all of a ``private`` memory zeros again, after all runs that were called before."""

    def append_rows(self, rows: Memory, target: Memory, at: int) -> None:
        """Copy ``rows`` (N, T, ...) to ``target[:, at : at + T]``, after all runs that were called before."""

    def record(self, runs: Sequence[Run]) -> Run:
        """One call in place of ``runs``, what ``bind`` gave, one after another: cheaper where it is called often."""

    def synchronize(self) -> None:
        """Wait for everything that was called; what engines wrote to shared memory may then be read.

        Raises:
            BackendError: something failed meanwhile.
        """

    def close(self) -> None:
        """Give all memory back; a second call does nothing."""
