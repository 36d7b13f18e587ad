"""When memory or heat presses, less is asked for, level by level; nobody is killed, and nothing is lost."""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import BudgetExceededError, Choice, Inspector
from edge_runtime.flight.log import FlightHeader, FlightLog, FlightRecord, load_flight
from edge_runtime.memory.monitor import (
    LEVELS,
    NOTHING_GIVEN_UP,
    Limits,
    Reading,
    ResourceMonitor,
    limits_of,
    read_machine,
)
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
from edge_runtime.stream.source_stream import SourceStream
from tests.fakes import FakeCamera

GB = 10**9
PLENTY = Reading(available_bytes=8 * GB, resident_bytes=GB // 10, temperature_c=50.0)
LOW = replace(PLENTY, available_bytes=GB - 1)
CRITICAL = replace(PLENTY, available_bytes=GB // 10 - 1)
HOT = replace(PLENTY, temperature_c=91.0)
HASTY = Limits(low_bytes=GB, critical_bytes=GB // 10, period_s=0.0, settle_s=0.0, patience_s=0.2)
FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class Machine:
    """A machine whose readings a test sets: one for good, or one after another and the last one for good."""

    def __init__(self, *readings: Reading) -> None:
        self.now = readings[-1]
        self._first = iter(readings[:-1])

    def __call__(self) -> Reading:
        return next(self._first, self.now)


def levels_of(monitor: ResourceMonitor, polls: int) -> list[str]:
    return [monitor.poll().name for _ in range(polls)]


def test_without_pressure_nothing_is_given_up() -> None:
    monitor = ResourceMonitor(HASTY, Machine(PLENTY))
    assert set(levels_of(monitor, 5)) == {NOTHING_GIVEN_UP}
    assert monitor.level_changes == ()
    assert monitor.rest_s() == 0


@pytest.mark.parametrize("reading", [LOW, HOT])
def test_pressure_takes_one_rung_after_another_down_to_a_pause(reading: Reading) -> None:
    monitor = ResourceMonitor(HASTY, Machine(reading))
    assert levels_of(monitor, 6) == [*(level.name for level in LEVELS[1:]), "pause", "pause"]


def test_relief_takes_the_rungs_back_one_by_one() -> None:
    machine = Machine(LOW)
    monitor = ResourceMonitor(HASTY, machine)
    levels_of(monitor, 4)
    machine.now = PLENTY
    assert levels_of(monitor, 5) == [*(level.name for level in reversed(LEVELS[:-1])), NOTHING_GIVEN_UP]


def test_a_rung_is_given_time_to_help() -> None:
    monitor = ResourceMonitor(replace(HASTY, settle_s=30.0), Machine(LOW))
    assert set(levels_of(monitor, 20)) == {"fewer report tokens"}


def test_what_has_barely_eased_takes_no_rung_back() -> None:
    machine = Machine(LOW)
    monitor = ResourceMonitor(HASTY, machine)
    levels_of(monitor, 1)
    machine.now = replace(PLENTY, available_bytes=GB + 1)
    assert set(levels_of(monitor, 5)) == {"fewer report tokens"}


@pytest.mark.parametrize("reading", [CRITICAL, replace(PLENTY, temperature_c=98.0)])
def test_a_critical_reading_pauses_at_once(reading: Reading) -> None:
    monitor = ResourceMonitor(replace(HASTY, settle_s=30.0), Machine(PLENTY, reading))
    assert levels_of(monitor, 2) == [NOTHING_GIVEN_UP, "pause"]


def test_a_frame_that_nobody_waits_for_any_more_is_refused_while_inspections_pause(tiny_bundle: Path) -> None:
    machine = Machine(PLENTY)
    with Inspector.open(tiny_bundle, threads=1, monitor=ResourceMonitor(HASTY, machine)) as inspector:
        machine.now = replace(PLENTY, temperature_c=120.0)
        with pytest.raises(BudgetExceededError, match="was not looked at"):
            inspector.inspect(FRAME, should_continue=lambda written: False)
        machine.now = PLENTY
        assert inspector.inspect(FRAME, should_continue=lambda written: True).tokens > 0


def test_a_process_beyond_its_budget_gets_smaller_and_does_not_pause_in_vain() -> None:
    monitor = ResourceMonitor(HASTY, Machine(PLENTY, replace(PLENTY, resident_bytes=2 * GB)))
    monitor.admit(MemoryPlan((MemoryPlanItem("weights", GB),)), GB)
    assert levels_of(monitor, 5)[-3:] == ["smaller context"] * 3
    assert "more than its budget of 1.00 GB" in monitor.level_changes[0].reason


def test_every_step_is_logged_and_kept_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    monitor = ResourceMonitor(HASTY, Machine(LOW, PLENTY))
    with caplog.at_level(logging.INFO):
        levels_of(monitor, 2)
    assert [step.level for step in monitor.level_changes] == ["fewer report tokens", NOTHING_GIVEN_UP]
    assert "1000.00 MB of memory are available, less than 1.00 GB" in monitor.level_changes[0].reason
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_at_a_lower_frame_rate_a_frame_waits_as_long_as_the_last_one_took() -> None:
    machine = Machine(HOT)
    monitor = ResourceMonitor(replace(HASTY, settle_s=0.0), machine)
    levels_of(monitor, 3)
    machine.now = replace(HOT, temperature_c=89.0)  # neither presses nor has eased
    began_s = time.monotonic()
    monitor.begin_report()
    time.sleep(0.5)
    monitor.end_report()
    took_s = time.monotonic() - began_s  # a busy machine sleeps long
    assert monitor.level.name == "lower frame rate"
    rest_s = monitor.rest_s()
    assert 0 < rest_s <= took_s
    time.sleep(rest_s)
    assert monitor.rest_s() == 0


def test_a_pause_for_want_of_memory_ends_with_an_error_and_one_for_heat_goes_on() -> None:
    starving, hot = (
        ResourceMonitor(HASTY, Machine(CRITICAL)),
        ResourceMonitor(HASTY, Machine(replace(PLENTY, temperature_c=98.0))),
    )
    assert starving.rest_s() > 0
    assert hot.rest_s() > 0
    time.sleep(0.25)
    assert hot.rest_s() > 0
    with pytest.raises(BudgetExceededError, match="no frame could be inspected") as refused:
        starving.rest_s()
    assert refused.value.exit_code == 4


def test_readings_are_taken_no_more_often_than_asked_for() -> None:
    readings = itertools.count()

    def read() -> Reading:
        next(readings)
        return PLENTY

    monitor = ResourceMonitor(replace(HASTY, period_s=30.0), read)
    levels_of(monitor, 50)
    assert next(readings) == 1


def test_this_machine_can_be_read() -> None:
    reading = read_machine()
    assert reading.available_bytes > 0
    assert reading.resident_bytes > 0
    assert 0 < limits_of(16 * GB).critical_bytes < limits_of(16 * GB).low_bytes < GB


# An inspector, and what the machine does to it.


@pytest.fixture
def needed_bytes(tiny_bundle: Path) -> int:
    with Inspector.open(tiny_bundle) as inspector:
        return inspector.memory_plan.planned_bytes


def test_a_plan_of_all_that_can_be_had_is_admitted_and_one_byte_less_is_not(
    tiny_bundle: Path, needed_bytes: int
) -> None:
    exact = replace(PLENTY, available_bytes=needed_bytes + HASTY.low_bytes)
    Inspector.open(tiny_bundle, monitor=ResourceMonitor(HASTY, Machine(exact))).close()
    short = replace(exact, available_bytes=exact.available_bytes - 1)
    with pytest.raises(BudgetExceededError, match=r"1 B more than the budget[\s\S]*kv_cache"):
        Inspector.open(tiny_bundle, monitor=ResourceMonitor(HASTY, Machine(short)))


def test_a_bundle_that_fits_its_budget_and_not_the_machine_is_refused(tiny_bundle: Path, needed_bytes: int) -> None:
    small = replace(PLENTY, available_bytes=needed_bytes // 2 + HASTY.low_bytes)
    with pytest.raises(BudgetExceededError, match=r"not this machine[\s\S]*vision_encoder") as refused:
        Inspector.open(tiny_bundle, budget="100GB", monitor=ResourceMonitor(HASTY, Machine(small)))
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("loaded", range(5))
def test_memory_that_another_process_takes_between_admission_and_load_is_refused(
    tiny_bundle: Path, loaded: int
) -> None:
    machine = Machine(*[PLENTY] * (1 + loaded), CRITICAL)
    with pytest.raises(BudgetExceededError, match=r"another process has taken memory since[\s\S]*kv_cache"):
        Inspector.open(tiny_bundle, monitor=ResourceMonitor(HASTY, machine))


def test_memory_that_runs_out_during_a_report_ends_it_with_what_is_whole(tiny_bundle: Path) -> None:
    machine = Machine(PLENTY)
    with Inspector.open(tiny_bundle, threads=1, monitor=ResourceMonitor(HASTY, machine)) as inspector:
        whole = inspector.inspect(FRAME)

        def take_memory(written: str) -> bool:
            machine.now = CRITICAL
            return True

        cut = inspector.inspect(FRAME, should_continue=take_memory)
        assert cut.truncated
        assert cut.tokens < whole.tokens
        machine.now = PLENTY
        again = inspector.inspect(FRAME)
    assert again.tokens >= cut.tokens


def test_a_frame_that_comes_while_memory_is_short_waits_for_it_and_then_gives_up(tiny_bundle: Path) -> None:
    machine = Machine(PLENTY)
    with Inspector.open(tiny_bundle, threads=1, monitor=ResourceMonitor(HASTY, machine)) as inspector:
        machine.now = CRITICAL
        with pytest.raises(BudgetExceededError, match="no frame could be inspected"):
            inspector.inspect(FRAME)
        machine.now = PLENTY
        assert inspector.inspect(FRAME).tokens > 0


def test_under_pressure_reports_get_shorter_and_the_cache_smaller_and_then_as_before(tiny_bundle: Path) -> None:
    machine = Machine(PLENTY)
    with Inspector.open(
        tiny_bundle, max_report_tokens=200, threads=1, monitor=ResourceMonitor(HASTY, machine)
    ) as inspector:
        before = inspector.memory_plan.item("kv_cache").measured_bytes
        machine.now = LOW
        inspector.monitor.poll()
        machine.now = replace(PLENTY, available_bytes=GB + 1)
        half = inspector.inspect(FRAME)
        machine.now = LOW
        inspector.monitor.poll()
        machine.now = replace(PLENTY, available_bytes=GB + 1)
        quarter = inspector.inspect(FRAME)
        smaller = inspector.memory_plan.item("kv_cache").measured_bytes
        machine.now = PLENTY
        levels_of(inspector.monitor, 2)
        full = inspector.inspect(FRAME)
        after = inspector.memory_plan.item("kv_cache").measured_bytes
    assert half.tokens <= 100
    assert quarter.tokens <= 50
    assert full.tokens > quarter.tokens
    assert before is not None
    assert smaller is not None
    assert smaller < before == after


def test_under_pressure_questions_are_answered_from_a_smaller_cache(tiny_bundle: Path) -> None:
    machine = Machine(PLENTY)
    choice = Choice(("a very long answer indeed, which takes more than a quarter of the room for reports", "no"))
    with Inspector.open(
        tiny_bundle, max_report_tokens=200, threads=1, monitor=ResourceMonitor(HASTY, machine)
    ) as inspector:
        before = inspector.ask(FRAME, "what is it?", choice)
        for _ in range(2):
            machine.now = LOW
            inspector.monitor.poll()
            machine.now = replace(PLENTY, available_bytes=GB + 1)
        assert inspector.monitor.level.cache_share < 1
        assert inspector.ask(FRAME, "what is it?", choice).choices == pytest.approx(before.choices, rel=1e-4)


def test_a_flight_that_memory_ends_keeps_every_report_so_far(tiny_bundle: Path, tmp_path: Path) -> None:
    machine, log_path = Machine(PLENTY), tmp_path / "flight.jsonl"

    def fly(stream: SourceStream, log: FlightLog) -> None:
        for count, outcome in enumerate(stream, start=1):
            assert outcome.report is not None
            log.write_record(FlightRecord(outcome.index, 0.0, outcome.frame.name, outcome.report))
            if count == 3:
                machine.now = CRITICAL

    with (
        Inspector.open(
            tiny_bundle, max_report_tokens=20, threads=1, monitor=ResourceMonitor(HASTY, machine)
        ) as inspector,
        closing(SourceStream(inspector, FakeCamera(1000, period_s=0.005))) as stream,
        FlightLog(log_path, FlightHeader("tiny", "camera", 0.0)) as log,
    ):
        with pytest.raises(BudgetExceededError):
            fly(stream, log)
        assert stream.counters.reported == 3
    assert len(load_flight(log_path).records) == 3
