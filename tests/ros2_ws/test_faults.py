"""What goes wrong in flight, one thing at a time, through real topics: the node lives on, and every frame counts."""

import re
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

import rclpy
from inspection_msgs.msg import InspectionReport as InspectionReportMessage
from inspection_ros.health import ERROR, OK, WARN
from inspection_ros.node import FAILURES_IN_A_ROW, RETRY_PERIOD_S
from lifecycle_msgs.msg import Transition

from edge_runtime.errors import BackendError, BundleNotFoundError
from edge_runtime.inspector import Inspector
from edge_runtime.memory.monitor import ResourceMonitor
from edge_runtime.reports.report import InspectionReport
from edge_runtime.ros.diagnostic_values import counters_from_values
from edge_runtime.stream.frame_counters import Counters
from tests.edge_runtime.memory.test_monitor import CRITICAL, HASTY, PLENTY, Machine
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.rig import WAIT_S
from tests.ros2_ws.test_node import scripted

SEEN = InspectionReport(findings=(CRACK,), tokens=4)


class Hanging(ScriptedInspector):
    """An inspector that hangs in its first frame until it is let go."""

    def __init__(self):
        super().__init__([SEEN])
        self.let_go = threading.Event()

    def inspect(self, frame, question="", should_continue=lambda written: True):
        assert self.let_go.wait(WAIT_S)
        return super().inspect(frame, question, should_continue)


real = partial(Inspector.open, threads=1)


def counters(rig):
    return rig.health and counters_from_values(rig.health.values)


def fly_on(rig, frames=1, **fields):
    """Publish frames, each after the one before is accounted for, and see that all of them are."""
    for _ in range(frames):
        before = counters(rig).received
        rig.publish_frame(stamp=rig.now(), **fields)
        rig.wait_until(lambda: settled(rig) and counters(rig).received == before + 1)  # noqa: B023


def settled(rig):
    now = counters(rig)
    return now is not None and now.received == now.reported + now.skipped + now.dropped + now.failed


def take_off(rig, inspector, **parameters):
    rig.fly(inspector if callable(inspector) else scripted(inspector), **parameters)
    rig.wait_until(lambda: counters(rig))


def test_a_camera_that_changes_resolution_and_encoding_is_inspected_as_it_is(rig):
    inspector = ScriptedInspector([SEEN])
    take_off(rig, inspector)
    fly_on(rig, frame=np.zeros((48, 64, 3), np.uint8))
    fly_on(rig, frame=np.zeros((108, 192, 3), np.uint8))
    fly_on(rig, encoding="mono8", height=30, width=40, step=40, data=bytes(1200))
    assert inspector.frame_shapes == [(48, 64, 3), (108, 192, 3), (30, 40, 3)]
    assert counters(rig).reported == 3


def test_a_camera_that_doubles_its_rate_costs_frames_and_never_order(rig):
    take_off(rig, ScriptedInspector([SEEN], delay_s=0.05))
    for number in range(40):
        rig.publish_frame(stamp=(1 + number, 0))
        rig.listen(0.06 if number < 20 else 0.03)
    rig.wait_until(lambda: rig.reports and rig.reports[-1].header.stamp.sec == 40)
    rig.wait_until(lambda: settled(rig) and counters(rig).received == rig.reports[-1].frames_received)
    stamps = [report.header.stamp.sec for report in rig.reports]
    assert stamps == sorted(stamps)
    assert counters(rig).dropped > 0


@pytest.mark.parametrize(("offset_s", "words"), [(3600, "in the future"), (-86400, "s ago")])
def test_stamps_from_the_future_and_the_past_are_kept_and_warned_of(rig, offset_s, words):
    take_off(rig, ScriptedInspector([SEEN]), stale_after_s=60.0)
    seconds, nanoseconds = rig.now()
    rig.publish_frame(stamp=(seconds + offset_s, nanoseconds))
    rig.wait_until(lambda: rig.reports)
    assert rig.reports[0].header.stamp.sec == seconds + offset_s
    assert rig.reports[0].frame_age_s == pytest.approx(-offset_s, abs=WAIT_S)
    rig.wait_until(lambda: rig.health.level == WARN)
    assert words in rig.health.message
    fly_on(rig)
    assert rig.health.level == OK


def test_a_camera_that_restarts_is_heard_again(rig):
    take_off(rig, ScriptedInspector([SEEN]))
    fly_on(rig)
    rig.restart_camera("image")
    fly_on(rig)
    assert counters(rig).reported == 2


@pytest.mark.parametrize(
    ("kind", "words"), [(BackendError, "the model's logits are NaN"), (MemoryError, ""), (ValueError, "too long")]
)
def test_an_engine_that_fails_costs_its_frame(rig, kind, words):
    take_off(rig, ScriptedInspector([SEEN, kind(words), SEEN]))
    fly_on(rig, frames=2)
    assert rig.health.level == WARN
    assert rig.health.message == f"frame 1: {words or 'MemoryError'}"
    fly_on(rig)
    assert rig.health.level == OK
    assert [report.frame_index for report in rig.reports] == [0, 2]
    assert rig.reports[-1].frames_failed == 1


def test_an_engine_that_returns_nan_costs_the_frame_and_works_again_once_its_weights_do(rig, bundle_copy):
    rows = bundle_copy / "embedding.f16"  # mapped, so that what is written there is what the model reads
    weights = rows.read_bytes()
    take_off(rig, real, bundle=str(bundle_copy), max_report_tokens=20)
    fly_on(rig)
    overwrite(rows, np.full(len(weights) // 2, np.nan, np.float16).tobytes())
    fly_on(rig)
    assert (rig.health.level, counters(rig).failed) == (WARN, 1)
    assert "logits are NaN" in rig.health.message
    overwrite(rows, weights)
    fly_on(rig)
    assert (rig.health.level, counters(rig).reported) == (OK, 2)


def overwrite(file, data):
    with file.open("r+b") as opened:
        opened.write(data)


def test_memory_pressure_holds_frames_back_and_says_so_until_it_has_eased(rig, tiny_bundle):
    machine = Machine(PLENTY)
    monitor = ResourceMonitor(replace(HASTY, patience_s=WAIT_S), machine)
    take_off(rig, partial(real, monitor=monitor), bundle=str(tiny_bundle), max_report_tokens=20)
    fly_on(rig)
    machine.now = CRITICAL
    rig.wait_until(lambda: rig.health.values["given_up"] == "pause")
    for number in (2, 3, 4):
        rig.publish_frame(stamp=rig.now())
        rig.wait_until(lambda: counters(rig).received == number)  # noqa: B023
    assert "memory are available" in rig.health.message
    assert counters(rig).reported == 1
    machine.now = PLENTY
    rig.wait_until(lambda: settled(rig) and rig.health.level == OK)
    assert counters(rig) == Counters(received=4, reported=2, dropped=2)
    assert rig.reports[-1].frame_index == 3


def test_an_engine_that_fails_at_every_frame_ends_the_flight_as_an_error_and_is_opened_anew(rig):
    broken, another = ScriptedInspector([BackendError("out of memory")]), ScriptedInspector([SEEN])
    inspectors = iter([broken, another])
    rig.start_node(lambda bundle, **keywords: next(inspectors), autostart=True)
    rig.wait_until(lambda: rig.publish_frame(stamp=rig.now()) or (rig.health and rig.health.level == ERROR))
    assert re.search(r"the engine failed \d+ times in a row; frame \d+: out of memory", rig.health.message)
    assert (broken.closed, rig.health.values["state"]) == (True, "unconfigured")
    rig.wait_until(lambda: rig.publish_frame(stamp=rig.now()) or (rig.reports and rig.health.level == OK))
    assert not another.closed


def test_an_engine_that_fails_under_a_manager_of_lifecycles_leaves_the_node_unconfigured_for_it(rig):
    inspectors = iter([ScriptedInspector([BackendError("out of memory")]), ScriptedInspector([SEEN])])
    take_off(rig, lambda bundle, **keywords: next(inspectors))
    rig.wait_until(lambda: rig.publish_frame(stamp=rig.now()) or rig.health.level == ERROR)
    assert rig.state == "unconfigured"
    assert rig.configure()
    assert rig.activate()
    rig.wait_until(lambda: settled(rig))
    fly_on(rig)


def test_frames_that_cannot_be_read_are_no_fault_of_the_engine(rig):
    take_off(rig, ScriptedInspector([SEEN]))
    fly_on(rig, frames=2 * FAILURES_IN_A_ROW, encoding="nonsense")
    rig.listen(1.2)
    assert (rig.health.level, counters(rig).failed) == (WARN, 2 * FAILURES_IN_A_ROW)
    fly_on(rig)
    assert rig.reports[-1].frames_failed == 2 * FAILURES_IN_A_ROW


def test_an_engine_that_hangs_costs_its_frame_and_the_bundle_is_opened_anew(rig):
    hanging, another = Hanging(), ScriptedInspector([SEEN])
    inspectors = iter([hanging, another])
    take_off(rig, lambda bundle, **keywords: next(inspectors), stuck_after_s=0.3)
    rig.publish_frame(stamp=rig.now())
    rig.wait_until(lambda: counters(rig).failed == 1)
    assert rig.health.level == WARN
    assert rig.health.values["inspections_left_behind"] == "1"
    fly_on(rig)
    assert rig.health.level == OK
    hanging.let_go.set()
    rig.wait_until(lambda: hanging.closed)
    assert not another.closed
    fly_on(rig)
    assert [report.frame_index for report in rig.reports] == [1, 2]


def test_a_subscriber_that_never_reads_holds_nothing_up(rig):
    take_off(rig, ScriptedInspector([SEEN]))
    sleeper = rclpy.create_node("sleeper")
    try:
        sleeper.create_subscription(InspectionReportMessage, "inspection/reports", lambda report: None, 1)
        rig.wait_until(lambda: sleeper.count_publishers("inspection/reports") == 1)
        for number in range(30):
            rig.publish_frame(stamp=(1 + number, 0))
            rig.wait_until(lambda: rig.reports and rig.reports[-1].header.stamp.sec == 1 + number)  # noqa: B023
    finally:
        sleeper.destroy_node()


def test_deactivating_under_full_load_loses_no_report_and_the_next_flight_starts_from_nothing(rig):
    take_off(rig, ScriptedInspector([SEEN], delay_s=0.1))
    for number in range(5):
        rig.publish_frame(stamp=(1 + number, 0))
    rig.wait_until(lambda: rig.reports)
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.reports.clear()
    assert rig.activate()
    rig.wait_until(lambda: rig.health.values.get("frames_received") == "0")
    fly_on(rig)
    assert (rig.reports[-1].frame_index, rig.reports[-1].frames_dropped) == (0, 0)


def test_a_node_that_starts_itself_tells_why_it_cannot_and_tries_until_it_can(rig):
    bundles = []

    def open_inspector(bundle, **keywords):
        if not bundles:
            raise BundleNotFoundError("the disk is not mounted")
        return ScriptedInspector([SEEN])

    rig.start_node(open_inspector, autostart=True)
    rig.wait_until(lambda: rig.health)
    assert (rig.health.level, rig.health.message) == (ERROR, "configure failed: the disk is not mounted")
    bundles.append("mounted")
    rig.wait_until(lambda: rig.state == "active")
    rig.publish_frame(stamp=rig.now())
    rig.wait_until(lambda: rig.reports and rig.health.level == OK)


def test_a_node_that_was_taken_down_does_not_start_itself_again(rig):
    rig.start_node(scripted(ScriptedInspector([SEEN])), autostart=True)
    assert rig.state == "active"
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert rig.change(Transition.TRANSITION_CLEANUP)
    rig.listen(1.2 * RETRY_PERIOD_S)
    assert rig.state == "unconfigured"
