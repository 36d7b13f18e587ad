"""The flight recorder: what it hears is on the disk, survives a power cut, and becomes the page of the flight."""

import json
import re
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import reduce

import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")
pytest.importorskip("mcap", reason="recording needs '.[bags]'")

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import HealthCheck, given, settings
from inspection_msgs.msg import InspectionReport as InspectionReportMessage
from inspection_ros.demo import ros_command
from inspection_ros.recording.definitions import definition_of
from inspection_ros.recording.mcap_file import McapFile
from inspection_ros.recording.recorder import SYNC_PERIOD_S, FlightRecorder
from inspection_ros.spin import spin
from lifecycle_msgs.msg import Transition
from mcap.reader import make_reader
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, NavSatFix
from std_msgs.msg import Header

from edge_runtime.cli import main
from edge_runtime.errors import BackendError, FlightLogError
from edge_runtime.flight.log import FrameFailure
from edge_runtime.flight.page.page import page_from_flight
from edge_runtime.flight.recording import load_recording
from edge_runtime.reports.report import WHOLE, Finding, InspectionReport
from edge_runtime.ros.diagnostic_values import counters_from_values
from edge_runtime.ros.messages import fill_compressed
from tests.edge_runtime.vision.test_image_decoding import HARM, harmed
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.conftest import PACKAGE
from tests.ros2_ws.rig import FRAME, WAIT_S
from tests.ros2_ws.test_node import ROOFS, scripted

SEEN = InspectionReport(findings=(CRACK,), tokens=4)


class Recording:
    """A recorder in a thread, as its own process would be."""

    def __init__(self, folder):
        settings = [Parameter("folder", value=str(folder)), Parameter("pictures_hz", value=60.0)]
        self._recorder = FlightRecorder(parameter_overrides=settings)
        self.path = self._recorder.path
        self._done = threading.Event()
        self._thread = threading.Thread(target=spin, args=(self._recorder, lambda node: self._done.is_set()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._done.set()
        self._thread.join(WAIT_S)
        self._recorder.close()
        self._recorder.destroy_node()


@pytest.fixture
def recorded(rig, tmp_path):
    """The recording of a flight with three reports, and a failure before the last of them."""
    rig.fly(scripted(ScriptedInspector([SEEN, SEEN, BackendError("the engine failed"), SEEN])), bundle="reference")
    with Recording(tmp_path) as recording:
        record(rig)
    return recording.path


def record(rig):
    """Four frames, one a second, recorded with the health that tells of the last."""
    rig.wait_until(lambda: rig.audience("inspection/reports") == 2 and rig.audience("inspection/annotated") == 1)
    rig.wait_until(lambda: rig.audience("inspection/failures") == 1)
    for second in (1, 2, 3, 4):
        rig.publish_frame(stamp=(second, 0))
        rig.wait_until(lambda: accounted_for(rig) == second)  # noqa: B023
    rig.listen(1.2)


def accounted_for(rig):
    counters = rig.health and counters_from_values(rig.health.values)
    return counters.reported + counters.failed if counters else None


def test_a_recording_holds_reports_pictures_counters_and_memory_plan_and_becomes_a_page(recorded, capsys):
    flight = load_recording(recorded)
    assert [(record.index, record.stamp_s, record.source) for record in flight.records] == [
        (0, 0.0, "image"),
        (1, 1.0, "image"),
        (3, 3.0, "image"),
    ]
    assert flight.failures == (FrameFailure(2, 2.0, "image", "the engine failed"),)
    assert {finding.track_id for record in flight.records for finding in record.report.findings} == {1}
    assert any(record.image for record in flight.records)
    assert (flight.end.received, flight.end.dropped, flight.end.failed, flight.end.skipped) == (4, 0, 1, 0)
    assert flight.end.memory_plan.planned_bytes == 1_000_000
    assert (flight.header.bundle, flight.header.source) == ("reference", "image")
    assert main(["report", str(recorded)]) == 0
    page = recorded.with_suffix(".html")
    assert capsys.readouterr().out.strip() == str(page)
    assert "1 moderate finding in 3 inspected frames" in page.read_text()
    assert '<td class="left">the engine failed</td>' in page.read_text()


def test_a_recording_is_read_back_in_the_words_of_its_schema(rig, tmp_path):
    hole = Finding("hole", "large", WHOLE, 0.5, "", "", boxes=(WHOLE,), fields={"share": 30})
    inspector = ScriptedInspector([InspectionReport((hole,), tokens=4, schema=ROOFS)])
    inspector.schema = ROOFS
    rig.fly(scripted(inspector))
    with Recording(tmp_path) as recording:  # later than the schema was told
        rig.wait_until(lambda: rig.audience("inspection/reports") == 2 and rig.audience("inspection/schema") == 1)
        rig.publish_frame(stamp=(1, 0))
        rig.wait_until(lambda: rig.reports)
        rig.listen(1.2)
    flight = load_recording(recording.path)
    assert flight.header.schema == ROOFS
    assert flight.records[0].report.findings == (replace(hole, track_id=1),)


def test_the_page_of_a_recording_draws_no_boxes_over_those_that_its_pictures_have(recorded):
    page = page_from_flight(load_recording(recorded))
    assert "data:image/jpeg" in page
    assert 'class="box' not in page


def test_a_node_that_was_activated_anew_flies_another_flight_which_is_the_one_that_is_read(rig, tmp_path):
    rig.fly(scripted(ScriptedInspector([SEEN])))
    with Recording(tmp_path) as recording:
        record(rig)
        assert rig.change(Transition.TRANSITION_DEACTIVATE)
        assert rig.activate()
        rig.wait_until(lambda: accounted_for(rig) == 0)
        rig.publish_frame(stamp=(9, 0))
        rig.wait_until(lambda: accounted_for(rig) == 1)
        rig.listen(1.2)
    flight = load_recording(recording.path)
    assert [record.index for record in flight.records] == [0]
    assert flight.end.received == 1


def flight_of(activated_s, second, camera="front"):
    header = Header(stamp=Time(sec=second), frame_id=camera)
    return "/inspection/reports", InspectionReportMessage(
        header=header, camera=camera, activated=Time(sec=activated_s), frame_index=second
    )


def health_since(activated_s, received):
    topic, message = health_of("", received)
    message.status[0].values.append(KeyValue(key="activated", value=str(activated_s * 10**9)))
    return topic, message


def test_every_flight_of_a_recording_can_be_read_and_its_page_tells_of_the_others(tmp_path, capsys):
    messages = [flight_of(10, 1), flight_of(10, 2), health_since(10, 5), health_since(20, 0)]
    messages += [flight_of(20, 3), health_since(20, 1)]
    recording = write_recording(tmp_path / "flight.mcap", messages)
    first, last = load_recording(recording, 1), load_recording(recording)
    assert ([record.index for record in first.records], first.end.received) == ([1, 2], 5)
    assert ([record.index for record in last.records], last.end.received) == ([3], 1)
    assert (first.number, first.count, first.reports_elsewhere) == (1, 2, 1)
    assert main(["report", str(recording), "--flight", "1"]) == 0
    page = recording.with_suffix(".html").read_text()
    assert "holds 2 flights, of which this is no. 1; the others have 1 report." in page
    assert main(["report", str(recording), "--flight", "3"]) == 1
    assert "holds 2 flights, and none has number 3" in capsys.readouterr().err


def test_two_nodes_of_one_name_are_two_flights_with_all_of_their_reports(tmp_path):
    messages = [flight_of(10, 1), flight_of(20, 2), flight_of(10, 3), flight_of(20, 4), flight_of(10, 5)]
    recording = write_recording(tmp_path / "flight.mcap", messages)
    assert [record.index for record in load_recording(recording, 1).records] == [1, 3, 5]
    assert [record.index for record in load_recording(recording, 2).records] == [2, 4]


def test_a_recording_and_its_page_tell_where_a_finding_was_seen(rig, tmp_path):
    rig.camera("fix", NavSatFix)
    rig.fly(scripted(ScriptedInspector([SEEN])))
    rig.connect("fix")
    rig.camera("fix").publish(
        NavSatFix(header=Header(stamp=Time(sec=1)), latitude=47.5, longitude=8.25, altitude=400.0)
    )
    rig.listen(0.5)
    with Recording(tmp_path) as recording:
        record(rig)
    flight = load_recording(recording.path)
    assert flight.records[0].place == "47.500000, 8.250000, 400.0 m"
    assert flight.records[-1].place == ""  # 3 s later nobody knows
    assert '<td class="left">47.500000, 8.250000, 400.0 m</td>' in page_from_flight(flight)


def write_recording(path, messages):
    """A recording of these topics and messages, in this order."""
    file = McapFile(path, definition_of)
    for number, (topic, message) in enumerate(messages):
        package, name = type(message).__module__.split(".")[0], type(message).__name__
        file.write(topic, f"{package}/msg/{name}", serialize_message(message), number)
    file.close()
    return path


def health_of(drone, received):
    values = {"bundle": f"/data{drone}", "frames_received": str(received), "frames_reported": str(received)}
    values |= dict.fromkeys(("frames_skipped", "frames_dropped", "frames_failed"), "0")
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    status = DiagnosticStatus(name=f"{drone}/inspection: inspection", values=pairs)
    return "/diagnostics", DiagnosticArray(status=[status])


def report_of(camera, level=None):
    """A report about the frame that all cameras took at 100 s, or the picture of that frame."""
    header = Header(stamp=Time(sec=100), frame_id=camera)
    if level is None:
        return "/drone1/inspection/reports", InspectionReportMessage(header=header, camera=camera)
    picture = CompressedImage(header=header)
    fill_compressed(picture, np.full((8, 8, 3), level, np.uint8))
    return "/drone1/inspection/annotated/compressed", picture


def test_what_other_drones_of_the_domain_say_is_not_taken_for_the_recorded_one_s(tmp_path):
    messages = [health_of("/drone2", 7), report_of("front"), health_of("/drone1", 1), health_of("/drone2", 777)]
    flight = load_recording(write_recording(tmp_path / "flight.mcap", messages))
    assert flight.header.bundle == "/data/drone1"
    assert flight.end.received == 1


def test_a_drone_that_told_nothing_of_its_health_is_not_given_another_one_s(tmp_path):
    messages = [report_of("front"), health_of("/drone2", 777)]
    flight = load_recording(write_recording(tmp_path / "flight.mcap", messages))
    assert (flight.header.bundle, flight.end) == ("", None)


def test_where_topics_were_remapped_the_only_node_is_the_one(tmp_path):
    messages = [("/findings", report_of("front")[1]), health_of("/drone1", 1)]
    flight = load_recording(write_recording(tmp_path / "flight.mcap", messages))
    assert (flight.header.bundle, flight.end.received) == ("/data/drone1", 1)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1), (0, 2, 3, 1)])
def test_cameras_that_are_triggered_at_once_keep_their_pictures(tmp_path, order):
    messages = [report_of("left"), report_of("right"), report_of("left", 10), report_of("right", 200)]
    flight = load_recording(write_recording(tmp_path / "flight.mcap", [messages[i] for i in order]))
    shown = {record.source: cv2.imdecode(np.frombuffer(record.image, np.uint8), 1).mean() for record in flight.records}
    assert shown == {"left": pytest.approx(10, abs=2), "right": pytest.approx(200, abs=2)}


def test_a_camera_without_a_clock_has_its_pictures_in_their_order(tmp_path):
    messages = [report_of("front"), report_of("front", 10), report_of("front"), report_of("front", 200)]
    flight = load_recording(write_recording(tmp_path / "flight.mcap", messages))
    shown = [cv2.imdecode(np.frombuffer(record.image, np.uint8), 1).mean() for record in flight.records]
    assert shown == [pytest.approx(10, abs=2), pytest.approx(200, abs=2)]


def test_a_power_cut_loses_nothing_that_had_reached_the_disk(recorded, tmp_path):
    whole = recorded.read_bytes()
    cut = tmp_path / "cut.mcap"
    lengths = []
    for length in range(len(whole), 2000, -len(whole) // 50):
        cut.write_bytes(whole[:length])
        try:
            flight = load_recording(cut)
        except FlightLogError:
            lengths.append(0)
        else:
            lengths.append(len(flight.records))
            assert length == len(whole) or flight.end is None
    assert lengths[0] == lengths[1] == 3
    assert lengths == sorted(lengths, reverse=True)


def test_a_power_cut_amid_the_head_of_a_record_loses_no_other(tmp_path):
    path = tmp_path / "flight.mcap"
    file = McapFile(path, definition_of)
    ends = []
    for number in range(2):
        file.write("/reports", "inspection_msgs/msg/InspectionReport", serialize_message(report_of("front")[1]), number)
        file.sync()
        ends.append(path.stat().st_size)
    file.close()
    whole = path.read_bytes()
    for length in range(ends[0], ends[0] + 10):
        path.write_bytes(whole[:length])
        assert len(load_recording(path).records) == 1


def test_a_recording_with_wrong_bytes_is_read_as_far_as_it_makes_sense_or_refused(recorded, tmp_path):
    whole = recorded.read_bytes()
    damaged = tmp_path / "damaged.mcap"
    for start in range(0, len(whole), len(whole) // 60):
        damaged.write_bytes(whole[:start] + b"\xff" * 20 + whole[start + 20 :])
        with suppress(FlightLogError):
            assert len(load_recording(damaged).records) <= 3


@pytest.fixture(scope="module")
def whole_recording(tmp_path_factory):
    """A recording of four reports that differ, their pictures and the node's counters, and what is read from it."""
    messages = []
    for number in range(4):
        (topic, report), (picture_topic, picture) = report_of("front"), report_of("front", level=40 * number)
        report.header.stamp.sec = picture.header.stamp.sec = 100 + number
        report.frame_index = number
        report.question = f"is frame {number} sound?"
        messages += [(topic, report), (picture_topic, picture)]
    path = write_recording(tmp_path_factory.mktemp("whole") / "flight.mcap", [*messages, health_of("/drone1", 4)])
    return path.read_bytes(), load_recording(path)


def check_harmed_recording(whole_recording, path, harm):
    """Refused, or whole, or told to have been cut short, with nothing in it that was not recorded."""
    data, flight = whole_recording
    path.write_bytes(harmed(data, *harm))
    try:
        found = load_recording(path)
    except FlightLogError:
        return
    if found.end is not None:
        assert found == flight
    pictures = {record.index: record.image for record in flight.records}
    assert all(record.image in (None, pictures[record.index]) for record in found.records)
    without = [replace(record, image=None) for record in found.records]
    assert without == [replace(record, image=None) for record in flight.records][: len(without)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HARM)
def test_a_harmed_recording_is_refused_or_told_to_be_cut_or_as_it_was(whole_recording, tmp_path, harm):
    check_harmed_recording(whole_recording, tmp_path / "harmed.mcap", harm)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HARM)
def test_of_2000_harmed_recordings_none_is_wrong_in_silence(whole_recording, tmp_path, harm):
    check_harmed_recording(whole_recording, tmp_path / "harmed.mcap", harm)


LAYOUT = (PACKAGE / "config" / "foxglove.json").read_text()
# Of the panels that the app exports, the settings that say what they show.
FOXGLOVE_PANELS = {
    "Image": {"imageMode"},
    "RawMessages": {"topicPath", "diffEnabled"},
    "Plot": {"paths", "showLegend"},
    "DiagnosticSummary": {"topicToRender", "minLevel", "pinnedIds", "hardwareIdFilter"},
}


def test_the_foxglove_layout_shows_the_topics_that_are_recorded_and_no_others(recorded):
    with recorded.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert set(re.findall(r'"(/[a-z_/]+)', LAYOUT)) == {channel.topic for channel in summary.channels.values()}


def test_the_foxglove_layout_shows_topics_that_the_node_publishes_in_flight(rig):
    rig.fly(scripted(ScriptedInspector([SEEN])))
    rig.wait_until(lambda: set(re.findall(r'"(/[a-z_/]+)', LAYOUT)) <= rig.names("publisher", "inspection"))


def test_the_foxglove_layout_places_each_of_its_panels_once_and_sets_what_such_panels_have():
    panels = json.loads(LAYOUT)["configById"]
    assert sorted(panels) == sorted(re.findall(r'"(?:first|second)": "([^"]+)"', LAYOUT))
    for name, shown in panels.items():
        assert set(shown) == FOXGLOVE_PANELS[name.partition("!")[0]] | {"foxglovePanelTitle"}


def test_what_the_foxglove_layout_plots_are_numbers_of_a_report():
    plotted = re.findall(r'"/inspection/reports\.([a-z_.]+)"', LAYOUT)
    assert len(plotted) == 7
    for path in plotted:
        assert isinstance(reduce(getattr, path.split("."), InspectionReportMessage()), int | float)


def test_what_sync_has_returned_from_can_be_read_while_the_recording_goes_on(tmp_path):
    file = McapFile(tmp_path / "open.mcap", lambda name: "string data\n")
    file.write("/chatter", "std_msgs/msg/String", b"\x00\x01\x00\x00\x06\x00\x00\x00hello\x00", 1)
    file.sync()
    assert b"hello" in (tmp_path / "open.mcap").read_bytes()
    file.close()


def test_a_recorder_that_is_killed_leaves_what_it_had_heard_a_second_before(rig, tmp_path):
    rig.fly(scripted(ScriptedInspector([SEEN])))
    recorder = subprocess.Popen(ros_command("recording.recorder", folder=str(tmp_path)))
    try:
        rig.wait_until(lambda: rig.audience("inspection/reports") == 2)
        for second in (1, 2, 3):
            rig.publish_frame(stamp=(second, 0))
            rig.wait_until(lambda: len(rig.reports) == second)  # noqa: B023
        rig.listen(1.0 + SYNC_PERIOD_S)
    finally:
        recorder.kill()
        recorder.wait(WAIT_S)
    (recording,) = tmp_path.glob("*.mcap")
    flight = load_recording(recording)
    assert [record.stamp_s for record in flight.records] == [0.0, 1.0, 2.0]
    assert flight.end is None


def test_a_file_that_is_there_is_never_written_over(tmp_path):
    (tmp_path / "flight.mcap").write_bytes(b"precious")
    with pytest.raises(FlightLogError, match="cannot write recording"):
        McapFile(tmp_path / "flight.mcap", str)
    assert (tmp_path / "flight.mcap").read_bytes() == b"precious"


def test_a_full_disk_ends_the_recorder_with_a_reason_and_not_the_node(rig, tmp_path):
    rig.fly(scripted(ScriptedInspector([SEEN])))
    command = (
        f"ulimit -f 8; exec {sys.executable} -m inspection_ros.recording.recorder --ros-args -p folder:={tmp_path}"
    )
    recorder = subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    try:
        rig.wait_until(lambda: rig.audience("inspection/reports") == 2)
        rig.wait_until(lambda: rig.publish_frame(frame=FRAME) or recorder.poll() is not None)
        assert recorder.returncode == 1
        assert "cannot write recording" in recorder.stderr.read()
    finally:
        recorder.kill()
    heard = len(rig.reports)
    rig.wait_until(lambda: rig.publish_frame() or len(rig.reports) > heard)


def test_what_is_no_recording_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "noise.mcap").write_bytes(bytes(range(256)) * 20)
    assert main(["report", str(tmp_path / "noise.mcap")]) == 1
    assert "is damaged, or none" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing.mcap")]) == 1
    assert "cannot read recording" in capsys.readouterr().err
