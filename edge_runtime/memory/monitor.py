"""Watching memory and heat while inspecting, and what is given up, step by step, before the kernel takes it all.

Knows readings and limits; frees nothing and inspects nothing itself.

The kernel kills whom it likes when memory runs out, so it must not come to that. As long as memory or heat presses, one
more level of degradation is taken every few seconds: shorter reports, a smaller cache, fewer frames, none. When it does
not press any more, the levels are climbed back up one by one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.errors import BudgetExceededError
from edge_runtime.memory.plan import MemoryPlan, check_fits, format_bytes
from edge_runtime.memory.telemetry import available_bytes, read_temperature_c, resident_bytes

_LOW_SHARE, _CRITICAL_SHARE = 0.05, 0.02  # of the machine's memory, that must stay available
_HOT_C, _TOO_HOT_C = 90.0, 97.0  # below 99, at which an Orin slows itself down
_REMEMBERED = 100  # level_changes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """The machine at one moment."""

    available_bytes: int  # MemAvailable
    resident_bytes: int  # of this process
    temperature_c: float | None = None  # of the hottest zone; None where there is no sensor


def read_machine() -> Reading:
    """The machine and this process, now."""
    return Reading(available_bytes(), resident_bytes(), read_temperature_c())


@dataclass(frozen=True)
class Limits:
    """When something presses, and how patiently to wait for relief."""

    low_bytes: int  # less than this available presses
    critical_bytes: int  # less than this ends the report in progress, and pauses at once
    hot_c: float = _HOT_C
    too_hot_c: float = _TOO_HOT_C  # as critical_bytes
    period_s: float = 0.2  # between two readings
    settle_s: float = 3.0  # a level is given so long to help before the next is taken, down or up
    patience_s: float = 60.0  # of a pause for want of memory, before it is given up


def limits_of(total_bytes: int) -> Limits:
    """The limits on a machine with so much memory."""
    return Limits(round(_LOW_SHARE * total_bytes), round(_CRITICAL_SHARE * total_bytes))


@dataclass(frozen=True)
class DegradationLevel:
    """What is given up; each level gives up what those above it do, too."""

    name: str
    report_share: float = 1.0  # of the longest report
    cache_share: float = 1.0  # of the longest report that the cache has room for
    busy_share: float = 1.0  # of time, that is spent inspecting


NOTHING_GIVEN_UP = "nothing"
LEVELS = (
    DegradationLevel(NOTHING_GIVEN_UP),
    DegradationLevel("fewer report tokens", report_share=0.5),
    DegradationLevel("smaller context", report_share=0.25, cache_share=0.25),
    DegradationLevel("lower frame rate", report_share=0.25, cache_share=0.25, busy_share=0.5),
    DegradationLevel("pause", report_share=0.0, cache_share=0.25, busy_share=0.0),
)
_PAUSE = len(LEVELS) - 1
_SMALLEST = 2  # no level below this makes the process smaller
_RELIEF, _RELIEF_C = (
    1.2,
    5.0,
)  # so much above low_bytes, and below hot_c, it has eased: no level is to be taken in turns


@dataclass(frozen=True)
class LevelChange:
    """One change of the level."""

    at_s: float  # of time.time()
    level: str
    reason: str


class ResourceMonitor:
    """Follows the machine by ``read``, beside an inspector; any thread may ask."""

    def __init__(self, limits: Limits, read: Callable[[], Reading] = read_machine) -> None:
        self._limits = limits
        self._read = read
        self._budget_bytes: int | None = None  # of this process, once it is admitted
        self._lock = threading.Lock()
        self._level_changes: deque[LevelChange] = deque(maxlen=_REMEMBERED)
        self._level = 0
        self._stepped_s = self._read_s = float("-inf")
        self._starved_s: float | None = None  # since when it pauses for want of memory
        self._began_s = self._ended_s = time.monotonic()  # of the last report

    @property
    def level(self) -> DegradationLevel:
        """What is given up at the moment."""
        return LEVELS[self._level]

    @property
    def level_changes(self) -> tuple[LevelChange, ...]:
        """The latest changes, oldest first."""
        return tuple(self._level_changes)

    def room_bytes(self) -> int:
        """What can be had without pressing anybody."""
        return max(self._read().available_bytes - self._limits.low_bytes, 0)

    def admit(self, memory_plan: MemoryPlan, budget_bytes: int | None) -> MemoryPlan:
        """Admit a plan to a budget, or to what can be had, and to the machine as it is now; from then on it is held to.

        Raises:
            BudgetExceededError: the plan exceeds the budget, or the machine's memory; the message is itemised.
        """
        room_bytes = self.room_bytes()
        admitted = check_fits(memory_plan, room_bytes if budget_bytes is None else budget_bytes)
        if memory_plan.planned_bytes > room_bytes:
            raise BudgetExceededError(
                f"the plan fits its budget, and not this machine: it needs {format_bytes(admitted.planned_bytes)}, and "
                f"{format_bytes(room_bytes)} can be had beside {format_bytes(self._limits.low_bytes)} that must stay "
                f"available; stop other processes, or use a smaller bundle\n{admitted.table()}"
            )
        self._budget_bytes = admitted.budget_bytes
        return admitted

    def check_room(self, name: str, needed_bytes: int) -> None:
        """See whether ``needed_bytes`` for ``name`` can still be had.

        Raises:
            BudgetExceededError: somebody took them since the plan was admitted.
        """
        left_bytes = self._read().available_bytes - self._limits.critical_bytes
        if needed_bytes > left_bytes:
            raise BudgetExceededError(
                f"{name} needs {format_bytes(needed_bytes)} to be loaded, and {format_bytes(max(left_bytes, 0))} are "
                "left: another process has taken memory since the plan was admitted; stop it, or use a smaller bundle"
            )

    def poll(self) -> DegradationLevel:
        """Read the machine, if the last reading is old, and take or leave a level."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._read_s >= self._limits.period_s:
                self._read_s = now_s
                self._follow(self._read(), now_s)
            return self.level

    def begin_report(self) -> None:
        """A report starts."""
        self._began_s = time.monotonic()

    def end_report(self) -> None:
        """The report that started last has ended."""
        self._ended_s = time.monotonic()

    def rest_s(self) -> float:
        """How long the next frame should wait, as far as is known; 0 where it need not. Ask again afterwards.

        Raises:
            BudgetExceededError: memory has not come back for ``patience_s``.
        """
        level, now_s = self.poll(), time.monotonic()
        if level.busy_share == 0:
            if self._starved_s is not None and now_s - self._starved_s > self._limits.patience_s:
                raise BudgetExceededError(
                    f"no frame could be inspected for {now_s - self._starved_s:.0f} s: "
                    f"{self._level_changes[-1].reason}; stop what takes the memory, or use a smaller bundle"
                )
            return max(self._limits.period_s, 0.01)
        next_s = self._began_s + (self._ended_s - self._began_s) / level.busy_share
        return max(next_s - now_s, 0.0) if level.busy_share < 1 else 0.0

    def _follow(self, reading: Reading, now_s: float) -> None:
        limits, available, heat_c = self._limits, reading.available_bytes, reading.temperature_c or 0.0
        presses, helps = self._pressure(reading)
        if available < limits.critical_bytes or heat_c > limits.too_hot_c:
            self._step_to(_PAUSE, presses, now_s)
        elif now_s - self._stepped_s >= limits.settle_s:
            eased = available > _RELIEF * limits.low_bytes and heat_c < limits.hot_c - _RELIEF_C
            if presses and self._level < helps:
                self._step_to(self._level + 1, presses, now_s)
            elif self._level > helps or (not presses and eased and self._level):
                self._step_to(self._level - 1, "the pressure has eased", now_s)
        starves = self._level == _PAUSE and available < limits.low_bytes
        self._starved_s = (self._starved_s or now_s) if starves else None

    def _pressure(self, reading: Reading) -> tuple[str, int]:
        """What presses, or nothing, and the lowest level that helps against it."""
        limits, budget_bytes = self._limits, self._budget_bytes
        if reading.available_bytes < limits.low_bytes:
            left, low = format_bytes(reading.available_bytes), format_bytes(limits.low_bytes)
            return f"{left} of memory are available, less than {low}", _PAUSE
        if reading.temperature_c is not None and reading.temperature_c > limits.hot_c:
            return f"it is {reading.temperature_c:.0f} °C hot, more than {limits.hot_c:.0f} °C", _PAUSE
        if budget_bytes is not None and reading.resident_bytes > budget_bytes:
            held, budget = format_bytes(reading.resident_bytes), format_bytes(budget_bytes)
            return f"this process holds {held}, more than its budget of {budget}", _SMALLEST
        return "", _PAUSE

    def _step_to(self, level: int, reason: str, now_s: float) -> None:
        if level == self._level:
            return
        severity = logging.WARNING if level > self._level else logging.INFO
        self._level, self._stepped_s = level, now_s
        self._level_changes.append(LevelChange(time.time(), LEVELS[level].name, reason))
        _log.log(severity, "stepped to %r: %s", LEVELS[level].name, reason)
