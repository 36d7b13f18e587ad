"""The node as a drone meets it: through real topics, services and parameters, with a scripted inspector."""

import cv2
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from inspection_ros.convert import frame_from_image, report_from_message
from inspection_ros.health import OK, STALE, WARN
from lifecycle_msgs.msg import Transition

from edge_runtime.errors import BackendError, BundleNotFoundError
from edge_runtime.report import InspectionReport
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.rig import FRAME


def scripted(inspector):
    return lambda bundle, budget, max_report_tokens: inspector


def test_a_report_carries_the_header_of_its_frame_and_the_findings(rig):
    rig.fly(scripted(ScriptedInspector()))
    rig.publish_frame(stamp=(12, 345), frame_id="front_camera")
    rig.wait_until(lambda: rig.reports)
    report = rig.reports[0]
    assert (report.header.stamp.sec, report.header.stamp.nanosec) == (12, 345)
    assert report.header.frame_id == "front_camera"
    assert report_from_message(report).findings == (CRACK,)
    assert (report.frame_index, report.frames_received, report.frames_dropped, report.frames_failed) == (0, 1, 0, 0)
    assert report.frame_age_s > 0


def test_a_slow_inspector_reports_the_newest_frame_and_counts_the_dropped(rig):
    rig.fly(scripted(ScriptedInspector(delay_s=1.0)))
    rig.publish_frame(stamp=(1, 0))
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_received") == "1")
    for second in range(2, 7):
        rig.publish_frame(stamp=(second, 0))
    rig.wait_until(lambda: len(rig.reports) == 2)
    assert [report.header.stamp.sec for report in rig.reports] == [1, 6]
    newest = rig.reports[1]
    assert newest.frames_received == 2 + newest.frames_dropped
    assert newest.frame_index == newest.frames_received - 1


def test_the_annotated_frame_is_published_when_someone_watches(rig):
    rig.fly(scripted(ScriptedInspector([InspectionReport(findings=(CRACK,))])))
    rig.watch_annotated()
    rig.wait_until(lambda: rig.publish_frame(stamp=(7, 0)) or rig.annotated)
    picture = frame_from_image(rig.annotated[0])
    assert picture.shape == FRAME.shape
    assert (picture != FRAME).any()
    assert rig.annotated[0].header.stamp.sec == 7


def test_compressed_frames_are_inspected_from_their_own_topic(rig):
    inspector = ScriptedInspector()
    rig.fly(scripted(inspector), image_transport="compressed")
    rig.publish_compressed(cv2.imencode(".jpg", FRAME)[1].tobytes())
    rig.wait_until(lambda: rig.reports)
    assert inspector.frame_shapes == [FRAME.shape]


@pytest.mark.parametrize(
    "broken",
    [{"encoding": "nonsense"}, {"step": 1}, {"height": 0, "width": 0, "step": 0}, {"data": b""}],
    ids=["encoding", "step", "zero size", "no data"],
)
def test_a_malformed_frame_is_counted_and_the_next_one_inspected(rig, broken):
    rig.fly(scripted(ScriptedInspector()))
    rig.publish_frame(**broken)
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_failed") == "1")
    assert rig.health.level == WARN
    assert "frame 0" in rig.health.message
    rig.publish_frame(stamp=(2, 0))
    rig.wait_until(lambda: rig.reports)
    assert rig.reports[0].header.stamp.sec == 2
    assert rig.reports[0].frames_failed == 1


def test_a_truncated_jpeg_is_counted_and_the_next_one_inspected(rig):
    rig.fly(scripted(ScriptedInspector()), image_transport="compressed")
    jpeg = cv2.imencode(".jpg", FRAME)[1].tobytes()
    rig.publish_compressed(jpeg[: len(jpeg) // 2])
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_failed") == "1")
    rig.publish_compressed(jpeg)
    rig.wait_until(lambda: rig.reports)


def test_an_inspector_that_raises_does_not_end_the_node(rig):
    script = [BackendError("the engine failed"), RuntimeError("surprise"), InspectionReport(tokens=4)]
    rig.fly(scripted(ScriptedInspector(script)))
    rig.publish_frame()
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_failed") == "1")
    assert rig.health.message == "frame 0: the engine failed"
    rig.publish_frame()
    rig.wait_until(lambda: rig.health.values.get("frames_failed") == "2")
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)


def test_a_camera_that_stops_is_called_stale_and_is_welcome_back(rig):
    rig.fly(scripted(ScriptedInspector()), stale_after_s=1.5)
    rig.publish_frame(stamp=(1, 0))
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_reported") == "1")
    assert (rig.health.level, rig.health.message) == (OK, "inspecting")
    rig.wait_until(lambda: rig.health.level == STALE)
    assert rig.health.message.startswith("no frame for")
    rig.publish_frame(stamp=(2, 0))
    rig.wait_until(lambda: rig.health.level == OK)
    rig.wait_until(lambda: len(rig.reports) == 2)


def test_diagnostics_tell_state_and_ledger(rig):
    rig.fly(scripted(ScriptedInspector()))
    rig.wait_until(lambda: rig.health and rig.health.values["state"] == "active")
    assert rig.health.values["ledger/weights/planned_bytes"] == "1000000"
    assert rig.health.values["measured_bytes"] == "1100000"
    assert rig.health.values["budget_bytes"] == "2000000"


def test_the_parameters_reach_the_inspector(rig):
    asked = {}

    def open_inspector(bundle, **keywords):
        asked.update(keywords, bundle=bundle)
        return ScriptedInspector()

    rig.start_node(open_inspector, bundle="out/bundle", budget="2GB", max_report_tokens=64)
    assert rig.configure()
    assert asked == {"bundle": "out/bundle", "budget": "2GB", "max_report_tokens": 64}


def test_a_failed_configure_leaves_a_node_that_can_be_configured(rig):
    def open_inspector(bundle, **keywords):
        if bundle == "missing":
            raise BundleNotFoundError("there is no bundle at missing")
        return ScriptedInspector()

    rig.start_node(open_inspector, bundle="missing")
    assert not rig.configure()
    assert rig.state == "unconfigured"
    rig.set_parameter("bundle", "present")
    assert rig.configure()
    assert rig.activate()
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)


def test_the_camera_subscription_is_best_effort_unless_overridden(rig):
    rig.fly(scripted(ScriptedInspector()))
    assert rig.camera_reliability == "BEST_EFFORT"


def test_reliability_can_be_asked_for_by_parameter(rig):
    rig.fly(scripted(ScriptedInspector()), **{"qos_overrides./image.subscription.reliability": "reliable"})
    assert rig.camera_reliability == "RELIABLE"


def test_a_failed_activate_closes_the_inspector_and_leaves_a_node_that_can_be_configured(rig):
    inspector = ScriptedInspector()
    rig.start_node(scripted(inspector), **{"qos_overrides./image.subscription.reliability": "nonsense"})
    assert rig.configure()
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    assert inspector.closed
    assert rig.state == "unconfigured"
    assert rig.configure()


def test_an_unknown_transport_is_refused_by_configure(rig):
    rig.start_node(scripted(ScriptedInspector()), image_transport="theora")
    assert not rig.configure()
    assert rig.state == "unconfigured"


def test_deactivate_finishes_the_report_in_progress(rig):
    rig.fly(scripted(ScriptedInspector(delay_s=0.5)))
    rig.publish_frame(stamp=(3, 0))
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_received") == "1")
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.wait_until(lambda: rig.reports)
    assert rig.reports[0].header.stamp.sec == 3


def test_cleanup_closes_the_inspector_and_the_node_flies_again(rig):
    opened = []

    def open_inspector(bundle, **keywords):
        opened.append(ScriptedInspector())
        return opened[-1]

    rig.fly(open_inspector)
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert not opened[0].closed
    assert rig.change(Transition.TRANSITION_CLEANUP)
    assert opened[0].closed
    assert rig.configure()
    assert rig.activate()
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)
    assert len(opened) == 2


def test_shutdown_from_active_closes_the_inspector(rig):
    inspector = ScriptedInspector()
    rig.fly(scripted(inspector))
    assert rig.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert inspector.closed
    assert rig.state == "finalized"


def test_an_impossible_transition_does_not_end_the_node(rig):
    rig.start_node(scripted(ScriptedInspector()))
    with pytest.raises(AssertionError, match="in vain"):  # rclpy answers such a request with silence
        rig.change(Transition.TRANSITION_ACTIVATE, timeout_s=1.0)
    assert rig.configure()
