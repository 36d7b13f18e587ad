"""What the simulated driver counted, and what it can be told to do."""

from __future__ import annotations

import ctypes
from functools import cache

LIVE = ("device_bytes", "host_bytes", "blocks", "streams", "events", "graphs")


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL("libcuda.so.1")
    driver.jetson_count.restype = ctypes.c_size_t
    driver.jetson_fail_after.argtypes = [ctypes.c_size_t]
    return driver


def count(name: str) -> int:
    """One of the counts of ``libcuda/jetson.h``."""
    return int(_driver().jetson_count(name.encode()))


def alive() -> dict[str, int]:
    """Everything that was made and not yet given back."""
    return {name: count(name) for name in LIVE}


def fail_after(successes: int) -> None:
    """Let so many allocations succeed, and refuse all after them; -1 allows all again."""
    _driver().jetson_fail_after(ctypes.c_size_t(successes))


def fault() -> None:
    """Let the device fail for good, as after an illegal access."""
    _driver().jetson_fault()
