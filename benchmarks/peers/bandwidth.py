"""How fast this machine reads memory: sums over a buffer that no cache holds, one thread a core."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BUFFER_BYTES = 2 << 30
_PART_BYTES = 8 << 20
_PASSES = 5


def read_bytes_per_s(threads: int) -> float:
    """The fastest of a few passes: what the machine can do, not what others left of it at that moment."""
    numbers = np.ones(_BUFFER_BYTES // 8, np.int64)
    parts = np.split(numbers, _BUFFER_BYTES // _PART_BYTES)

    def read(first: int) -> int:
        return sum(int(part.sum()) for part in parts[first::threads])

    with ThreadPoolExecutor(threads) as pool:
        seconds = []
        for _ in range(_PASSES):
            started_s = time.perf_counter()
            list(pool.map(read, range(threads)))
            seconds.append(time.perf_counter() - started_s)
    return _BUFFER_BYTES / min(seconds)


if __name__ == "__main__":
    import sys

    print(read_bytes_per_s(int(sys.argv[1])))
