"""Readings say what the kernel says; statistics say what happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.memory.telemetry import LatencyWindow, latency_statistics, read_memory, read_temperature_c


def test_memory_readings_are_consistent_with_one_another() -> None:
    memory = read_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert 0 < memory.resident_bytes <= memory.total_bytes


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = read_memory().resident_bytes
    held = np.ones(50_000_000, np.uint8)
    assert read_memory().resident_bytes - before > 0.8 * held.nbytes


def test_the_hottest_zone_is_reported_and_unreadable_ones_are_ignored(tmp_path: Path) -> None:
    for zone, text in enumerate(["41500\n", "63250\n", "", "EAGAIN"]):
        (tmp_path / f"thermal_zone{zone}").mkdir()
        (tmp_path / f"thermal_zone{zone}" / "temp").write_text(text)
    assert read_temperature_c(tmp_path) == 63.25


def test_a_machine_without_thermometer_has_no_temperature(tmp_path: Path) -> None:
    assert read_temperature_c(tmp_path) is None


def test_percentiles_are_durations_that_happened() -> None:
    statistics = latency_statistics([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (statistics.median_ms, statistics.p90_ms, statistics.max_ms) == (3.0, 5.0, 5.0)
    assert statistics.mean_ms == 3.0
    assert latency_statistics(float(n) for n in range(1, 101)).p99_ms == 99.0


def test_no_durations_have_no_statistics() -> None:
    with pytest.raises(ValueError, match="no durations"):
        latency_statistics([])


def test_a_window_forgets_the_oldest() -> None:
    window = LatencyWindow(size=2)
    assert window.statistics() is None
    for duration_ms in (100.0, 1.0, 2.0):
        window.add(duration_ms)
    statistics = window.statistics()
    assert statistics is not None
    assert (statistics.count, statistics.max_ms) == (2, 2.0)
