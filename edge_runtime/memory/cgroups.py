"""What the control groups of this process leave to it: MemAvailable knows nothing of a container's limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

# By the controllers that /proc/self/cgroup names, of version 2 and 1: the folder, and the files' names for the limit,
# the usage, and what of it is file pages that the kernel can drop. JetPack 6 has version 2, some containers still 1.
_LAYOUTS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_NO_LIMIT = 1 << 60  # version 1 writes no limit as a number near 2**63


def cgroup_left_bytes(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int | None:
    """What the tightest group leaves, droppable file pages counted as left; None where no group has a limit."""
    return min(_lefts_bytes(groups, mount), default=None)


def _lefts_bytes(groups: Path, mount: Path) -> Iterator[int]:
    for line in _lines(groups):
        _, controllers, path = line.split(":", 2)
        if controllers not in _LAYOUTS:
            continue
        folder, limit_name, usage_name, droppable_name = _LAYOUTS[controllers]
        names = [name for name in path.split("/") if name]
        for depth in range(len(names) + 1):  # a group is held to its parents' limits, too
            group = mount.joinpath(folder, *names[:depth])
            limit_bytes, usage_bytes = _number(group / limit_name), _number(group / usage_name)
            if limit_bytes is not None and usage_bytes is not None and limit_bytes < _NO_LIMIT:
                fields = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
                yield max(limit_bytes - usage_bytes + int(fields.get(droppable_name, 0)), 0)


def _number(file: Path) -> int | None:
    text = "".join(_lines(file))
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux, no such controller, or a group that this container doesn't show
        return []
