"""The node as a drone meets it: through real topics, services and parameters, with a scripted inspector."""

import subprocess
import sys
import time
from dataclasses import replace

import cv2
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from inspection_msgs.msg import ReportSchema as ReportSchemaMessage
from inspection_ros.health import OK, STALE, WARN
from inspection_ros.subscriptions import camera_qos
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, NavSatFix
from std_msgs.msg import Header

from edge_runtime.errors import BackendError, BundleNotFoundError
from edge_runtime.inspector import Inspector
from edge_runtime.memory.monitor import LevelChange
from edge_runtime.reports.report import Finding, InspectionReport, Region
from edge_runtime.reports.schema import load_schema, schema_from_yaml
from edge_runtime.ros.messages import (
    frame_from_compressed,
    frame_from_image,
    report_from_message,
    schema_from_message,
)
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.rig import DIFFERENT, FRAME, WAIT_S


def scripted(inspector):
    return lambda bundle, budget, max_report_tokens, schema: inspector


def test_a_report_carries_the_header_of_its_frame_and_the_findings(rig):
    rig.fly(scripted(ScriptedInspector()))
    rig.publish_frame(stamp=(12, 345), frame_id="front_camera")
    rig.wait_until(lambda: rig.reports)
    report = rig.reports[0]
    assert (report.header.stamp.sec, report.header.stamp.nanosec) == (12, 345)
    assert report.header.frame_id == "front_camera"
    assert report_from_message(report).findings == (replace(CRACK, track_id=1),)
    assert report.camera == "image"
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


def test_frames_that_show_nothing_new_are_skipped_and_counted_in_the_report_and_in_diagnostics(rig):
    rig.fly(scripted(ScriptedInspector()), skip_below=0.35, refresh_s=60.0)
    for second in (1, 2, 3):
        rig.publish_frame(stamp=(second, 0))
        rig.wait_until(lambda: rig.health and rig.health.values.get("frames_received") == str(second))  # noqa: B023
    rig.publish_frame(stamp=(4, 0), frame=DIFFERENT)
    rig.wait_until(lambda: len(rig.reports) == 2)
    assert [report.header.stamp.sec for report in rig.reports] == [1, 4]
    assert (rig.reports[1].frames_received, rig.reports[1].frames_skipped) == (4, 2)
    rig.wait_until(lambda: rig.health.values["frames_reported"] == "2")
    assert rig.health.values["frames_skipped"] == "2"


def test_one_defect_in_several_frames_keeps_its_number(rig):
    rig.fly(scripted(ScriptedInspector([InspectionReport(findings=(CRACK,))])))
    for second in (1, 2):
        rig.publish_frame(stamp=(second, 0))
        rig.wait_until(lambda: len(rig.reports) == second)  # noqa: B023
    assert [report.findings[0].track_id for report in rig.reports] == [1, 1]


def test_several_cameras_are_served_and_named_in_their_reports(rig):
    rig.start_node(scripted(ScriptedInspector()), cameras=["left/image", "right/image"])
    rig.camera("left/image")
    rig.camera("right/image")
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.connect("left/image", "right/image")
    rig.publish_frame(stamp=(1, 0), camera="left/image")
    rig.publish_frame(stamp=(2, 0), camera="right/image")
    rig.wait_until(lambda: len(rig.reports) == 2)
    assert {report.camera: report.header.stamp.sec for report in rig.reports} == {"left/image": 1, "right/image": 2}


def test_simulated_time_is_the_time_that_a_frame_s_age_is_told_in(rig):
    rig.camera("/clock", Clock)
    rig.fly(scripted(ScriptedInspector()), use_sim_time=True)
    rig.connect("/clock")
    rig.camera("/clock").publish(Clock(clock=Time(sec=1000)))
    rig.listen(0.3)
    rig.publish_frame(stamp=(998, 500_000_000))
    rig.wait_until(lambda: rig.reports)
    assert rig.reports[0].frame_age_s == 1.5


def test_a_report_tells_where_its_frame_was_taken(rig):
    inspector = ScriptedInspector(delay_s=0.3)
    rig.camera("pose", PoseStamped)
    rig.camera("fix", NavSatFix)
    rig.camera("camera_info", CameraInfo)
    rig.fly(scripted(inspector))
    rig.connect("pose", "fix", "camera_info")
    header = Header(stamp=Time(sec=10), frame_id="map")
    rig.camera("camera_info").publish(CameraInfo(header=header, width=64, height=48))
    rig.camera("fix").publish(NavSatFix(header=header, latitude=47.5))
    for second in (9, 10, 11):
        pose = PoseStamped(header=Header(stamp=Time(sec=second), frame_id="map"))
        pose.pose.position.x = float(second)
        rig.camera("pose").publish(pose)
    rig.wait_until(lambda: rig.publish_frame(stamp=(10, 100)) or (rig.reports and rig.reports[-1].pose))
    report = rig.reports[-1]
    assert [pose.pose.position.x for pose in report.pose] == [10.0]
    assert [fix.latitude for fix in report.position] == [47.5]
    assert [info.width for info in report.camera_info] == [64]


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_info_of_a_remapped_camera_is_heard_beside_it(rig, transport):
    rules = ["image:=/front/image_raw", "image/compressed:=/front/image_raw/compressed"]
    rig.start_node(scripted(ScriptedInspector()), remap=rules, image_transport=transport)
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.wait_until(lambda: "/front/camera_info" in rig.names("subscriber", "inspection"))
    assert "/camera_info" not in rig.names("subscriber", "inspection")


def test_the_annotated_frame_is_there_as_jpeg_for_a_slow_link(rig):
    rig.fly(scripted(ScriptedInspector([InspectionReport(findings=(CRACK,))])))
    rig.watch_annotated(1, CompressedImage)
    rig.wait_until(lambda: rig.publish_frame(stamp=(7, 0)) or rig.annotated)
    picture = frame_from_compressed(rig.annotated[0])
    assert picture.shape == FRAME.shape
    assert rig.annotated[0].header.stamp.sec == 7


@pytest.mark.parametrize("qos", [camera_qos(), 1], ids=["best effort", "reliable, as RViz asks"])
def test_the_annotated_frame_is_published_when_someone_watches(rig, qos):
    rig.fly(scripted(ScriptedInspector([InspectionReport(findings=(CRACK,))])))
    rig.watch_annotated(qos)
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
    rig.publish_frame(stamp=rig.now())
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_reported") == "1")
    assert (rig.health.level, rig.health.message) == (OK, "inspecting")
    rig.wait_until(lambda: rig.health.level == STALE)
    assert rig.health.message.startswith("no frame for")
    rig.publish_frame(stamp=rig.now())
    rig.wait_until(lambda: rig.health.level == OK)
    rig.wait_until(lambda: len(rig.reports) == 2)


def test_diagnostics_tell_state_and_memory_plan(rig):
    rig.fly(scripted(ScriptedInspector()))
    rig.wait_until(lambda: rig.health and rig.health.values["state"] == "active")
    assert rig.health.values["memory_plan/weights/planned_bytes"] == "1000000"
    assert rig.health.values["measured_bytes"] == "1100000"
    assert rig.health.values["budget_bytes"] == "2000000"


def test_the_parameters_reach_the_inspector(rig):
    asked = {}

    def open_inspector(bundle, **keywords):
        asked.update(keywords, bundle=bundle)
        return ScriptedInspector()

    rig.start_node(open_inspector, bundle="out/bundle", budget="2GB", max_report_tokens=64, schema="pipeline")
    assert rig.configure()
    assert asked == {"bundle": "out/bundle", "budget": "2GB", "max_report_tokens": 64, "schema": "pipeline"}


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


def test_a_camera_is_heard_as_it_is_offered(rig):
    rig.fly(scripted(ScriptedInspector()))
    rig.wait_until(lambda: rig.camera_reliability == "RELIABLE")
    rig.restart_camera("image", camera_qos())
    rig.wait_until(lambda: rig.camera_reliability == "BEST_EFFORT")
    rig.wait_until(lambda: rig.publish_frame() or rig.reports)


def test_a_camera_of_which_one_publisher_is_best_effort_is_heard_so(rig):
    rig.camera("front", qos=camera_qos())
    rig.camera("another", remapped="front")
    rig.start_node(scripted(ScriptedInspector()), cameras=["front"])
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.connect("front", "another")
    rig.listen(1.5)  # it looks once a second
    assert rig.reliability_of("front") == "BEST_EFFORT"


def test_best_effort_is_kept_where_it_is_asked_for(rig):
    rig.fly(scripted(ScriptedInspector()), **{"qos_overrides./image.subscription.reliability": "best_effort"})
    rig.listen(1.5)
    assert rig.camera_reliability == "BEST_EFFORT"


@pytest.mark.parametrize(
    ("transport", "published", "why"),
    [
        ("raw", None, "nobody publishes /front"),
        ("raw", "front", "/front is published, and nothing comes"),
        ("compressed", None, "nobody publishes /front/compressed"),
    ],
)
def test_a_silent_camera_is_told_from_one_that_is_not_there(rig, transport, published, why):
    if published:
        rig.camera(published)
    rig.start_node(scripted(ScriptedInspector()), cameras=["front"], image_transport=transport, stale_after_s=0.1)
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.wait_until(lambda: rig.health and rig.health.level == STALE and rig.health.message.endswith(why))


PUBLISHER = """
import sys
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from sensor_msgs.msg import CompressedImage
rclpy.init()
node = rclpy.create_node("publisher")
publisher = node.create_publisher(globals()[sys.argv[1]], sys.argv[2], 1)
rclpy.spin(node)
"""


@pytest.fixture
def publisher(request, ros):
    """A process, as Fast DDS takes one type a topic in each, that publishes nothing of a type on a topic."""
    process = subprocess.Popen([sys.executable, "-c", PUBLISHER, *request.param])
    yield request.param[1]
    process.kill()
    process.wait(WAIT_S)


@pytest.mark.parametrize("publisher", [("CompressedImage", "/front")], indirect=True)
def test_a_camera_of_another_type_is_told(rig, publisher):
    rig.start_node(scripted(ScriptedInspector()), cameras=["front"], stale_after_s=0.1)
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    why = "/front is published as sensor_msgs/msg/CompressedImage, and sensor_msgs/msg/Image is wanted"
    rig.wait_until(lambda: rig.health and rig.health.level == STALE and rig.health.message.endswith(why))


def test_a_camera_that_offers_less_than_is_asked_for_is_told(rig):
    rig.camera("front", qos=camera_qos())
    reliable = {"qos_overrides./front.subscription.reliability": "reliable"}
    rig.start_node(scripted(ScriptedInspector()), cameras=["front"], stale_after_s=0.1, **reliable)
    assert rig.configure()
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    rig.wait_until(lambda: rig.health and rig.health.level == STALE and "leave the override out" in rig.health.message)


def test_poses_whose_clock_is_another_are_warned_of(rig):
    rig.camera("pose", PoseStamped)
    rig.fly(scripted(ScriptedInspector()), stale_after_s=3600.0)
    rig.connect("pose")
    second, _ = rig.now()
    pose = PoseStamped(header=Header(stamp=Time(sec=second + 30), frame_id="map"))
    rig.wait_until(
        lambda: (
            rig.camera("pose").publish(pose)
            or rig.publish_frame(stamp=(second, 0))
            or (rig.health and "compare the clocks" in rig.health.message)
        )
    )
    assert rig.health.level == WARN
    assert rig.health.message.startswith("/pose is stamped 30.0 s off the frames")
    assert "nobody publishes /fix" in rig.health.values["fix"]


@pytest.mark.parametrize("publisher", [("PoseWithCovarianceStamped", "/pose")], indirect=True)
def test_poses_of_another_type_are_warned_of(rig, publisher):
    rig.fly(scripted(ScriptedInspector()), stale_after_s=3600.0)
    now = rig.now()
    published = "/pose is published as geometry_msgs/msg/PoseWithCovarianceStamped"
    rig.wait_until(lambda: rig.publish_frame(stamp=now) or (rig.health and rig.health.message.startswith(published)))
    assert rig.health.level == WARN


def test_a_node_that_was_shut_down_says_that_it_is_finalized(rig):
    rig.fly(scripted(ScriptedInspector()))
    assert rig.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    rig.wait_until(lambda: rig.health and rig.health.message == "finalized: nothing is inspected")
    assert rig.health.hardware_id


def test_activations_degradation_and_health_are_in_the_log(rig):
    inspector = ScriptedInspector([InspectionReport()])
    logged = rig.watch_log()
    rig.fly(scripted(inspector))
    inspector.level_changes = (LevelChange(1.0, "fewer report tokens", "little memory"),)
    rig.wait_until(lambda: any("given up: fewer report tokens: little memory" in line for line in logged))
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    rig.wait_until(lambda: any("inactive: nothing is inspected" in line for line in logged))
    assert any("active: inspects image" in line for line in logged)
    assert any(line.startswith("health: ") for line in logged)


def test_reliability_can_be_asked_for_by_parameter(rig):
    rig.fly(scripted(ScriptedInspector()), **{"qos_overrides./image.subscription.reliability": "reliable"})
    assert rig.camera_reliability == "RELIABLE"


def test_how_reports_are_published_can_be_asked_for_by_parameter_too(rig):
    rig.fly(scripted(ScriptedInspector()), **{"qos_overrides./inspection/reports.publisher.reliability": "best_effort"})
    assert rig.report_reliability == "BEST_EFFORT"


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


def test_an_impossible_transition_is_refused_and_does_not_end_the_node(rig):
    rig.start_node(scripted(ScriptedInspector()))
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    assert rig.configure()


def test_of_two_configurations_at_once_one_opens_the_bundle_and_the_other_is_refused(rig):
    opened = []

    def open_inspector(bundle, **keywords):
        opened.append(ScriptedInspector())
        time.sleep(0.2)
        return opened[-1]

    rig.start_node(open_inspector)
    answers = rig.change_at_once(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CONFIGURE)
    assert sorted(answers) == [False, True]
    assert len(opened) == 1
    assert rig.state == "inactive"


ROOFS = schema_from_yaml(
    b"name: roofs\nsubject: the roof\nclasses: [moss, hole]\nseverities: [small, large, huge]\nboxes: several\n"
    b"fields: {share: {type: integer, minimum: 0, maximum: 100, unit: '%'}}"
)


def test_the_schema_is_told_to_whoever_subscribes_late_and_severities_are_numbers(rig):
    box = Region(0.0, 0.0, 0.5, 0.5)
    hole = Finding("hole", "large", box, 0.5, "", "", boxes=(box,), fields={"share": 30})
    inspector = ScriptedInspector([InspectionReport((hole,), schema=ROOFS)])
    inspector.schema = ROOFS
    rig.fly(scripted(inspector))
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)
    told = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig._client.create_subscription(ReportSchemaMessage, "inspection/schema", told.append, qos)
    rig.wait_until(lambda: told)
    assert schema_from_message(told[0]) == ROOFS
    assert told[0].activated == rig.reports[0].activated
    assert [finding.severity_level for finding in rig.reports[0].findings] == [1]
    assert report_from_message(rig.reports[0], ROOFS).findings == (replace(hole, track_id=1),)


def test_a_schema_is_not_changed_while_a_flight_runs(rig):
    rig.fly(scripted(ScriptedInspector()))
    assert "deactivate and clean the node up" in rig.set_parameter("schema", "pipeline")


def test_a_schema_that_is_none_is_refused_with_those_that_are(rig):
    rig.start_node(scripted(ScriptedInspector()))
    assert "wind-turbine-blade" in rig.set_parameter("schema", "roofs")


def test_wind_turbines_are_reported_on_from_any_weights(rig, roomy_bundle):
    turbine = load_schema("wind-turbine-blade")
    rig.start_node(Inspector.open, bundle=str(roomy_bundle), schema="wind-turbine-blade", max_report_tokens=1500)
    assert rig.configure()
    assert rig.activate()
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)
    report = report_from_message(rig.reports[0], turbine)  # which refuses words that the schema does not have
    assert all(finding.defect_class in turbine.class_names for finding in report.findings)
