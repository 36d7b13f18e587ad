"""Counters and ledger as the words that diagnostics carry, and back; knows no ROS and judges nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from edge_runtime.memory.monitor import NOTHING_GIVEN_UP, Step
from edge_runtime.memory.plan import Ledger, LedgerItem
from edge_runtime.stream.loop import Counters

_LATEST_STEPS = 10


def values_from_ledger(ledger: Ledger) -> dict[str, str]:
    """Every item's bytes, then the totals, as diagnostics carry them."""
    values = {}
    for item in ledger.items:
        values[f"ledger/{item.name}/planned_bytes"] = str(item.planned_bytes)
        if item.measured_bytes is not None:
            values[f"ledger/{item.name}/measured_bytes"] = str(item.measured_bytes)
    values["planned_bytes"] = str(ledger.planned_bytes)
    values["measured_bytes"] = str(ledger.measured_bytes)
    if ledger.budget_bytes is not None:
        values["budget_bytes"] = str(ledger.budget_bytes)
    return values


def ledger_from_values(values: Mapping[str, str]) -> Ledger | None:
    """Inverse of :func:`values_from_ledger`; None where the values hold no ledger."""
    names = [match[1] for key in values if (match := re.fullmatch(r"ledger/(.+)/planned_bytes", key))]
    if not names:
        return None
    items = (
        LedgerItem(
            name, int(values[f"ledger/{name}/planned_bytes"]), _optional(values, f"ledger/{name}/measured_bytes")
        )
        for name in names
    )
    return Ledger(tuple(items), _optional(values, "budget_bytes"))


def values_from_steps(steps: Sequence[Step]) -> dict[str, str]:
    """What is given up for memory or for heat at the moment, and the latest steps that led there."""
    values = {"given_up": steps[-1].rung if steps else NOTHING_GIVEN_UP}
    for number, step in enumerate(steps[-_LATEST_STEPS:], start=max(len(steps) - _LATEST_STEPS, 0)):
        when = datetime.fromtimestamp(step.at_s, timezone.utc).isoformat(timespec="seconds")
        values[f"step/{number}"] = f"{when} {step.rung}: {step.reason}"
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
