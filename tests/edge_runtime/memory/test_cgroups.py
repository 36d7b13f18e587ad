"""A container's limit counts, in either version of control groups, and so do those of what it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_runtime.memory.cgroups import cgroup_left_bytes
from edge_runtime.memory.telemetry import available_bytes

GB = 10**9
V1_NO_LIMIT = 9223372036854771712


def left_of(tmp_path: Path, line: str, files: Mapping[str, object]) -> int | None:
    for name, value in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    return cgroup_left_bytes(tmp_path / "cgroup", tmp_path / "mount")


def test_a_limit_less_what_is_used_and_cannot_be_dropped_is_left(tmp_path: Path) -> None:
    stat = f"anon {3 * GB}\ninactive_file {GB}"
    files = {"box/memory.max": 8 * GB, "box/memory.current": 4 * GB, "box/memory.stat": stat}
    assert left_of(tmp_path, "0::/box", files) == 5 * GB


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    outer = {"a/memory.max": 4 * GB, "a/memory.current": 3 * GB}
    inner = {"a/b/memory.max": 8 * GB, "a/b/memory.current": 2 * GB}
    assert left_of(tmp_path, "0::/a/b", {**outer, **inner}) == GB


def test_groups_without_a_limit_leave_the_machine(tmp_path: Path) -> None:
    assert left_of(tmp_path, "0::/box", {"box/memory.max": "max", "box/memory.current": GB}) is None
    first = {"memory/memory.limit_in_bytes": V1_NO_LIMIT, "memory/memory.usage_in_bytes": GB}
    assert left_of(tmp_path, "4:memory:/", first) is None


def test_the_first_version_of_control_groups_is_read(tmp_path: Path) -> None:
    files = {
        "memory/box/memory.limit_in_bytes": 8 * GB,
        "memory/box/memory.usage_in_bytes": 9 * GB,
        "memory/box/memory.stat": f"cache 5\ntotal_inactive_file {3 * GB}",
    }
    assert left_of(tmp_path, "4:memory:/box", files) == 2 * GB


def test_a_group_that_its_container_does_not_show_is_passed_over(tmp_path: Path) -> None:
    files = {"memory.max": 8 * GB, "memory.current": GB}  # mounted as the container's own root
    assert left_of(tmp_path, "0::/docker/4f2a", files) == 7 * GB


@pytest.mark.parametrize("there", [False, True])
def test_a_system_without_control_groups_has_no_limit(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "cgroup").write_text("")
    assert cgroup_left_bytes(tmp_path / "cgroup", tmp_path) is None


def test_some_memory_is_available_here() -> None:
    assert available_bytes() > 0
