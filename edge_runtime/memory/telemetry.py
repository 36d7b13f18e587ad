"""What this process and machine consume right now: memory, temperature, latency statistics; decides nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_runtime.memory.cgroups import cgroup_left_bytes


@dataclass(frozen=True)
class MemoryReading:
    """Bytes at one moment. The kernel's own words: see proc(5)."""

    available_bytes: int  # of the machine: MemAvailable, which counts reclaimable page cache
    total_bytes: int  # of the machine
    resident_bytes: int  # of this process: RSS, which counts memory-mapped weights that were touched
    peak_resident_bytes: int | None  # highest RSS so far; None where the kernel does not say


def read_memory() -> MemoryReading:
    """Memory of the machine and of this process."""
    machine = psutil.virtual_memory()
    status = kilobyte_fields(Path("/proc/self/status"))
    return MemoryReading(
        available_bytes=machine.available,
        total_bytes=machine.total,
        resident_bytes=psutil.Process().memory_info().rss,
        peak_resident_bytes=status.get("VmHWM"),
    )


def total_bytes() -> int:
    """Memory that the machine has."""
    return int(psutil.virtual_memory().total)


def available_bytes() -> int:
    """Memory that this process can have without swapping: MemAvailable, or less where a container is limited."""
    available, left = int(psutil.virtual_memory().available), cgroup_left_bytes()
    return available if left is None else min(available, left)


def resident_bytes() -> int:
    """RSS of this process: cheaper than :func:`read_memory`, for measuring around one step."""
    return int(psutil.Process().memory_info().rss)


def read_temperature_c(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where the machine shows none."""
    readings = [reading for zone in zones.glob("thermal_zone*/temp") if (reading := _temperature_c(zone)) is not None]
    return max(readings, default=None)


@dataclass(frozen=True)
class LatencyStatistics:
    """A summary of durations, in milliseconds."""

    count: int
    mean_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def latency_statistics(durations_ms: Iterable[float]) -> LatencyStatistics:
    """Summarise ``durations_ms``; percentiles are nearest-rank, so each is a duration that happened.

    Raises:
        ValueError: there are no durations.
    """
    ordered = sorted(durations_ms)
    if not ordered:
        raise ValueError("no durations to summarise; measure at least one frame")

    def percentile(percent: float) -> float:
        return ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]

    return LatencyStatistics(
        count=len(ordered),
        mean_ms=sum(ordered) / len(ordered),
        median_ms=percentile(50),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        max_ms=ordered[-1],
    )


class LatencyWindow:
    """The latest durations of a stream that never ends, in bounded memory."""

    def __init__(self, size: int = 512) -> None:
        self._durations_ms: deque[float] = deque(maxlen=size)

    def add(self, duration_ms: float) -> None:
        """Record one duration; the oldest is forgotten when the window is full."""
        self._durations_ms.append(duration_ms)

    def statistics(self) -> LatencyStatistics | None:
        """Summary of the window; None before the first duration."""
        return latency_statistics(self._durations_ms) if self._durations_ms else None


def _temperature_c(file: Path) -> float | None:
    try:
        return int(file.read_text()) / 1000
    except (OSError, ValueError):  # a zone of a powered-down block (the Jetson's GPU) fails with EAGAIN
        return None


def kilobyte_fields(file: Path) -> dict[str, int]:
    """Bytes by name of what a file like ``/proc/PID/status`` counts in kB; none of a process that has ended."""
    try:
        lines = file.read_text().splitlines()
    except OSError:  # not Linux, or no permission
        return {}
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3 and words[2] == "kB"}
