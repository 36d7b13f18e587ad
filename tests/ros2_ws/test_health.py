"""Diagnostics say whether the camera speaks, whether frames fail, and where the bytes are."""

import pytest
from inspection_ros.health import ERROR, OK, STALE, WARN, Heard, assess

from edge_runtime.memory.monitor import NOTHING_GIVEN_UP, LevelChange
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.memory.power import Power
from edge_runtime.memory.telemetry import latency_statistics
from edge_runtime.ros.diagnostic_values import counters_from_values, memory_plan_from_values, values_from_memory_plan
from edge_runtime.stream.frame_counters import Counters, Status

COUNTERS = Counters(received=12, reported=6, skipped=3, dropped=2, failed=1)
PLAN = MemoryPlan((MemoryPlanItem("weights/vision", 100, 110), MemoryPlanItem("kv_cache", 50)), budget_bytes=200)


def status(since_frame_s=0.1, last_failure=None, counters=COUNTERS):
    return Status(counters, latency_statistics([10.0, 20.0, 90.0]), since_frame_s, last_failure)


@pytest.mark.parametrize(
    ("state", "status", "level", "message"),
    [
        ("unconfigured", None, WARN, "unconfigured: nothing is inspected"),
        ("inactive", None, WARN, "inactive: nothing is inspected"),
        ("active", status(), OK, "inspecting"),
        ("active", status(last_failure="frame 3: cut short"), WARN, "frame 3: cut short"),
        ("active", status(since_frame_s=4.0), STALE, "no frame for 4.0 s"),
        ("active", status(since_frame_s=4.0, last_failure="frame 3: cut short"), STALE, "no frame for 4.0 s"),
        ("active", status(since_frame_s=4.0, counters=Counters()), STALE, "no frame yet, after 4.0 s"),
    ],
)
def test_level_and_message_follow_the_worst_that_is_true(state, status, level, message):
    health = assess(state, status, None, None, stale_after_s=2.0)
    assert (health.level, health.message) == (level, message)


def test_a_transition_that_failed_is_an_error_with_its_reason():
    health = assess("unconfigured", None, None, None, 2.0, failed_transition="configure failed: there is no bundle")
    assert (health.level, health.message) == (ERROR, "configure failed: there is no bundle")


def test_counters_latencies_and_temperature_are_among_the_values():
    values = assess("active", status(), PLAN, 61.25, stale_after_s=2.0).values
    assert counters_from_values(values) == COUNTERS
    assert values["latency_median_ms"] == "20.0"
    assert values["latency_max_ms"] == "90.0"
    assert values["temperature_c"] == "61.2"


def test_a_memory_plan_survives_the_way_through_diagnostics():
    values = assess("active", status(), PLAN, None, stale_after_s=2.0).values
    assert memory_plan_from_values(values) == PLAN
    assert values_from_memory_plan(PLAN)["planned_bytes"] == "150"


def test_what_is_given_up_for_memory_or_heat_is_a_warning_with_every_step():
    level_changes = (
        LevelChange(0.0, "fewer report tokens", "little memory"),
        LevelChange(3.0, "smaller context", "less memory"),
    )
    health = assess("active", status(), None, None, stale_after_s=2.0, level_changes=level_changes)
    assert (health.level, health.message) == (WARN, "smaller context: less memory")
    assert health.values["given_up"] == "smaller context"
    assert health.values["level_change/0"] == "1970-01-01T00:00:00+00:00 fewer report tokens: little memory"
    assert health.values["level_change/1"] == "1970-01-01T00:00:03+00:00 smaller context: less memory"


def test_what_was_taken_back_is_no_warning_any_more():
    level_changes = (LevelChange(0.0, "pause", "heat"), LevelChange(3.0, NOTHING_GIVEN_UP, "the pressure has eased"))
    assert assess("active", status(), None, None, stale_after_s=2.0, level_changes=level_changes).level == OK


def test_values_without_counters_or_memory_plan_give_none():
    assert memory_plan_from_values({"state": "inactive"}) is None
    assert counters_from_values({"state": "inactive"}) is None


@pytest.mark.parametrize(("age_s", "level"), [(-3600.0, WARN), (-0.2, OK), (0.3, OK), (86400.0, WARN)])
def test_frames_stamped_in_the_future_or_long_ago_tell_of_a_wrong_clock(age_s, level):
    health = assess("active", status(), None, None, stale_after_s=2.0, frame_age_s=age_s)
    assert health.level == level
    assert ("clock" in health.message) == (level == WARN)


def test_frames_that_were_lost_on_the_way_are_counted_and_warned_of():
    health = assess("active", status(), None, None, stale_after_s=2.0, heard=Heard(lost=20, lost_lately=3))
    assert (health.level, health.values["frames_lost"]) == (WARN, "20")
    assert health.message.startswith("3 frames were lost on the way")


def test_speed_and_what_was_left_behind_are_among_the_values():
    latency = latency_statistics([30.0])
    running = Status(COUNTERS, latency, 0.1, None, first_token=latency, tokens_per_s=12.34, busy_s=1.5, left_behind=1)
    values = assess("active", running, None, None, stale_after_s=2.0).values
    assert (values["tokens_per_s"], values["first_token_median_ms"]) == ("12.3", "30.0")
    assert (values["busy_s"], values["inspections_left_behind"]) == ("1.50", "1")


def test_power_mode_and_energy_are_told_where_the_machine_tells_them():
    values = assess("active", status(), None, None, stale_after_s=2.0, power=Power(12.5, "15W")).values
    assert (values["power_w"], values["power_mode"]) == ("12.50", "15W")
    assert values["energy_per_report_j"] == "0.25"  # 12.5 W for 20 ms
    untold = assess("active", status(), None, None, stale_after_s=2.0).values
    assert not {name for name in untold if name.startswith(("power", "energy"))}
