"""Counters and memory plan as the words that diagnostics carry, and back; knows no ROS and judges nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from edge_runtime.memory.monitor import NOTHING_GIVEN_UP, LevelChange
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.stream.frame_counters import Counters

_LATEST_CHANGES = 10


def values_from_memory_plan(memory_plan: MemoryPlan) -> dict[str, str]:
    """Every item's bytes, then the totals, as diagnostics carry them."""
    values = {}
    for item in memory_plan.items:
        values[f"memory_plan/{item.name}/planned_bytes"] = str(item.planned_bytes)
        if item.measured_bytes is not None:
            values[f"memory_plan/{item.name}/measured_bytes"] = str(item.measured_bytes)
    values["planned_bytes"] = str(memory_plan.planned_bytes)
    values["measured_bytes"] = str(memory_plan.measured_bytes)
    if memory_plan.budget_bytes is not None:
        values["budget_bytes"] = str(memory_plan.budget_bytes)
    return values


def memory_plan_from_values(values: Mapping[str, str]) -> MemoryPlan | None:
    """Inverse of :func:`values_from_memory_plan`; None where the values hold no memory plan."""
    names = [match[1] for key in values if (match := re.fullmatch(r"memory_plan/(.+)/planned_bytes", key))]
    if not names:
        return None
    items = (
        MemoryPlanItem(
            name,
            int(values[f"memory_plan/{name}/planned_bytes"]),
            _optional(values, f"memory_plan/{name}/measured_bytes"),
        )
        for name in names
    )
    return MemoryPlan(tuple(items), _optional(values, "budget_bytes"))


def values_from_level_changes(level_changes: Sequence[LevelChange]) -> dict[str, str]:
    """What is given up for memory or for heat at the moment, and the latest level_changes that led there."""
    values = {"given_up": level_changes[-1].level if level_changes else NOTHING_GIVEN_UP}
    for number, change in enumerate(
        level_changes[-_LATEST_CHANGES:], start=max(len(level_changes) - _LATEST_CHANGES, 0)
    ):
        when = datetime.fromtimestamp(change.at_s, timezone.utc).isoformat(timespec="seconds")
        values[f"level_change/{number}"] = f"{when} {change.level}: {change.reason}"
    return values


def values_from_counters(counters: Counters) -> dict[str, str]:
    """Every counter, as diagnostics carry it."""
    return {f"frames_{name}": str(count) for name, count in vars(counters).items()}


def counters_from_values(values: Mapping[str, str]) -> Counters | None:
    """The counters that diagnostics carry; None where there are none."""
    if "frames_received" not in values:
        return None
    return Counters(**{name: int(values[f"frames_{name}"]) for name in vars(Counters())})


def _optional(values: Mapping[str, str], key: str) -> int | None:
    return int(values[key]) if key in values else None
