"""What /diagnostics says of an inspection, in words and numbers; knows no ROS, so the caller makes the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.memory.monitor import NOTHING_GIVEN_UP, LevelChange
from edge_runtime.memory.plan import MemoryPlan
from edge_runtime.memory.power import Power
from edge_runtime.memory.telemetry import LatencyStatistics
from edge_runtime.ros.diagnostic_values import values_from_counters, values_from_level_changes, values_from_memory_plan
from edge_runtime.stream.frame_counters import Status

OK, WARN, ERROR, STALE = range(4)  # the levels of diagnostic_msgs/DiagnosticStatus

_UNTOLD = Power()
_CLOCKS_APART_S = 0.5  # two machines that are synchronised at all
_LONG_AGO_S = 60.0


@dataclass(frozen=True)
class Heard:
    """What is known of the topics that an active node subscribes to."""

    silence: str = ""  # why no frame may come
    lost: int = 0  # frames, on the way
    lost_lately: int = 0  # of them, in the last seconds
    places: Mapping[str, str] = field(default_factory=dict)  # pose and fix, in words
    doubts: Sequence[str] = ()  # what is wrong with them


_NOTHING_HEARD = Heard()


@dataclass(frozen=True)
class Health:
    """The fields of one ``diagnostic_msgs/DiagnosticStatus``."""

    level: int
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def assess(
    state: str,
    status: Status | None,
    memory_plan: MemoryPlan | None,
    temperature_c: float | None,
    stale_after_s: float,
    frame_age_s: float = 0.0,
    level_changes: Sequence[LevelChange] = (),
    failed_transition: str = "",
    power: Power = _UNTOLD,
    heard: Heard = _NOTHING_HEARD,
) -> Health:
    """The health of a node in lifecycle ``state``; ``status`` is that of its pipeline while it has one.

    Cameras that have been silent for ``stale_after_s`` are stale; so are those that never spoke. ``frame_age_s`` is
    that of the latest report's frame, by its stamp: one from the future, or from long ago, tells of a wrong clock.
    ``level_changes`` are what the inspector gave up for memory or for heat, and took back. ``failed_transition`` says
    why the node is not active although someone wanted it to be; nothing is inspected in other states, which is a
    warning. ``heard`` tells of the topics.
    """
    values: dict[str, str] = {"state": state, **values_from_level_changes(level_changes)}
    if status is not None:
        values |= _values_from_status(status)
        values |= {"frames_lost": str(heard.lost), **heard.places}
    if memory_plan is not None:
        values |= values_from_memory_plan(memory_plan)
    if temperature_c is not None:
        values["temperature_c"] = f"{temperature_c:.1f}"
    values |= _values_from_power(power, status)
    values["frame_age_s"] = f"{frame_age_s:.3f}"
    if state != "active" or status is None:
        level, message = (ERROR, failed_transition) if failed_transition else (WARN, f"{state}: nothing is inspected")
    else:
        level, message = _verdict(status, stale_after_s, frame_age_s, heard)
    if level == OK and level_changes and level_changes[-1].level != NOTHING_GIVEN_UP:
        level, message = WARN, f"{level_changes[-1].level}: {level_changes[-1].reason}"
    return Health(level, message, values)


def _verdict(status: Status, stale_after_s: float, frame_age_s: float, heard: Heard) -> tuple[int, str]:
    if status.since_frame_s > stale_after_s:
        why = f": {heard.silence}" if heard.silence else ""
        if status.counters.received == 0:
            return STALE, f"no frame yet, after {status.since_frame_s:.1f} s{why}"
        return STALE, f"no frame for {status.since_frame_s:.1f} s{why}"
    if status.last_failure is not None:
        return WARN, status.last_failure
    if not -_CLOCKS_APART_S <= frame_age_s <= _LONG_AGO_S:
        when = f"{-frame_age_s:.1f} s in the future" if frame_age_s < 0 else f"{frame_age_s:.1f} s ago"
        return WARN, f"frames are stamped {when}; compare the camera's clock with this one"
    if heard.lost_lately:
        return WARN, f"{heard.lost_lately} frames were lost on the way; see docs/ros.md, large raw frames"
    if heard.doubts:
        return WARN, "; ".join(heard.doubts)
    return OK, "inspecting"


def _values_from_status(status: Status) -> dict[str, str]:
    values = values_from_counters(status.counters)
    values["since_frame_s"] = f"{status.since_frame_s:.2f}"
    values["busy_s"] = f"{status.busy_s:.2f}"
    values["inspections_left_behind"] = str(status.left_behind)
    if status.tokens_per_s is not None:
        values["tokens_per_s"] = f"{status.tokens_per_s:.1f}"
    return (
        values
        | _values_from_latency("latency", status.latency)
        | _values_from_latency("first_token", status.first_token)
        | _values_from_latency("handover", status.handover)
    )


def _values_from_power(power: Power, status: Status | None) -> dict[str, str]:
    values = {}
    if power.mode is not None:
        values["power_mode"] = power.mode
    if power.watts is not None:
        values["power_w"] = f"{power.watts:.2f}"
        if status is not None and status.latency is not None:  # of the whole module, while a report is made
            values["energy_per_report_j"] = f"{power.watts * status.latency.median_ms / 1000:.2f}"
    return values


def _values_from_latency(name: str, latency: LatencyStatistics | None) -> dict[str, str]:
    if latency is None:
        return {}
    percentiles = {"median": latency.median_ms, "p90": latency.p90_ms, "p99": latency.p99_ms, "max": latency.max_ms}
    return {f"{name}_{percentile}_ms": f"{value_ms:.1f}" for percentile, value_ms in percentiles.items()}
