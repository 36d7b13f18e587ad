"""Memory moves to huge pages as it is: the same bytes, and no more of them."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from edge_runtime.huge_pages import use_huge_pages
from edge_runtime.telemetry import resident_bytes

SIZE = 32 << 20


def test_memory_keeps_its_numbers() -> None:
    memory = np.frombuffer(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.int64)
    memory[...] = np.arange(memory.size)
    use_huge_pages()
    assert np.array_equal(memory, np.arange(memory.size))


def test_memory_that_nobody_has_touched_is_not_taken() -> None:
    reserved = mmap.mmap(-1, 4 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    reserved[0] = 1
    before = resident_bytes()
    use_huge_pages()
    assert resident_bytes() < before + SIZE


def test_what_is_in_use_comes_to_lie_on_huge_pages() -> None:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(SIZE))
    before_kb = _huge_kb()
    use_huge_pages()
    if _huge_kb() == before_kb:
        pytest.skip("this kernel does not move memory to huge pages when asked: it is older than Linux 6.1")
    assert _huge_kb() >= before_kb + (SIZE - 2 * (2 << 20)) // 1024


def _huge_kb() -> int:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("AnonHugePages:"))
