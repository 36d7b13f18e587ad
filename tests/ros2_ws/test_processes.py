"""Node, player and demo as processes: they fly together, end when asked to, and say why when they cannot."""

import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from inspection_ros.demo import fly, main, ros_command, running
from inspection_ros.node import GIVEN_UP_EXIT_CODE
from inspection_ros.recording.recorder import FlightRecorder
from inspection_ros.replay.player import CameraPlayer
from lifecycle_msgs.msg import Transition
from rclpy.parameter import Parameter

from edge_runtime.errors import BackendError, SourceError
from edge_runtime.flight.log import FlightHeader, load_flight
from tests.ros2_ws.rig import WAIT_S
from tests.ros2_ws.test_deployment import slowness

RESPAWN_DELAY_S = 1.0  # of the launch files
pytestmark = pytest.mark.usefixtures("ros")

SCRIPTED_NODE = """
from tests.fakes import ScriptedInspector
from inspection_ros.node import main
main(open_inspector=lambda bundle, **keywords: ScriptedInspector(delay_s={delay_s}))
"""
HANGING_NODE = """
from tests.fakes import ScriptedInspector
from inspection_ros.node import main
inspectors = iter([ScriptedInspector(delay_s=3600)])
main(open_inspector=lambda bundle, **keywords: next(inspectors))
"""
TALKATIVE_NODE = """
from edge_runtime.reports.report import InspectionReport
from tests.fakes import ScriptedInspector
from inspection_ros.node import main
talkative = ScriptedInspector([InspectionReport(tokens=10**9)], token_delay_s=0.01)
main(open_inspector=lambda bundle, **keywords: talkative)
"""
FAILING_NODE = """
from edge_runtime.errors import BackendError
from tests.fakes import ScriptedInspector
from inspection_ros.node import main
main(open_inspector=lambda bundle, **keywords: ScriptedInspector([BackendError("an illegal memory access")]))
"""
HEADER = FlightHeader("scripted", "three pictures", 0.0)


def without_middleware(errors):
    """What a process said on stderr, but for Fast DDS, which complains of shared memory that killed ones left."""
    return [line for line in errors.splitlines() if "[RTPS" not in line]


def accounted_for(flight):
    """Frames that the node knows of; on a busy machine, best effort loses some on the way to it."""
    return len(flight.records) + flight.end.skipped + flight.end.dropped


def scripted_node(delay_s=0.0):
    return [sys.executable, "-c", SCRIPTED_NODE.format(delay_s=delay_s)]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for level in (110, 130, 150):  # of another pattern each, or they would be skipped as showing nothing new
        pattern = np.random.default_rng(level).permutation([level - 40, level + 40] * 24).reshape(6, 8)
        picture = np.kron(pattern, np.ones((8, 8)))[..., np.newaxis].repeat(3, axis=2)
        cv2.imwrite(str(folder / f"{level}.png"), picture.astype(np.uint8))
    return str(folder)


def camera(source, **parameters):
    return ros_command("replay.player", source=source, **{"rate_hz": 10.0, "wait_for_subscribers": 2, **parameters})


def test_a_flight_leaves_a_log_with_every_frame_accounted_for_and_a_page(pictures, tmp_path, capfd):
    out = tmp_path / "flight"
    reports = fly(scripted_node(), camera(pictures), HEADER, out, timeout_s=60)
    flight = load_flight(tmp_path / "flight.jsonl")
    assert reports == len(flight.records) >= 1
    assert 1 <= accounted_for(flight) == flight.end.received <= 3
    assert flight.end.memory_plan.planned_bytes == 1_000_000
    assert flight.records[-1].index == flight.end.received - 1
    logged = [cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR) for record in flight.records]
    levels = [picture.mean() for picture in logged]
    assert levels == sorted(levels)
    assert all(min(abs(level - shown) for shown in (110, 130, 150)) <= 2 for level in levels)
    assert "<html" in (tmp_path / "flight.html").read_text()
    said = capfd.readouterr().out
    assert "hairline crack across the joint; inspect closely" in said
    findings = [finding for record in flight.records for finding in record.report.findings]
    defects = {finding.track_id for finding in findings}
    assert f"{reports} reports with {len(findings)} findings of {len(defects)} defects, " in said


def test_frames_that_a_slow_inspector_skips_are_counted_in_the_log(pictures, tmp_path):
    fly(
        scripted_node(delay_s=0.3),
        camera(pictures, rate_hz=20.0, loop=True, max_frames=12),
        HEADER,
        tmp_path / "flight",
        timeout_s=60,
    )
    flight = load_flight(tmp_path / "flight.jsonl")
    assert accounted_for(flight) == flight.end.received <= 12
    assert flight.end.dropped > 0


def test_a_node_that_ends_at_once_is_an_error_and_not_a_wait(pictures, tmp_path):
    with pytest.raises(BackendError, match="has ended"):
        fly([sys.executable, "-c", "raise SystemExit(3)"], camera(pictures), HEADER, tmp_path / "flight", timeout_s=60)


def test_a_camera_without_a_source_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="exit code 1"):
        fly(scripted_node(), camera(str(tmp_path / "missing")), HEADER, tmp_path / "flight", timeout_s=60)


def test_the_demo_refuses_a_missing_bundle_in_one_line(tmp_path):
    command = [sys.executable, "-m", "inspection_ros.demo", "missing", "--out", str(tmp_path / "flight")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("demo: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_signal_ends_node_and_player_quietly(rig, pictures):
    commands = (ros_command("node"), ros_command("replay.player", source=pictures, loop=True))
    asked = [
        (ending, subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for ending in (signal.SIGINT, signal.SIGTERM)
        for command in commands
    ]
    try:
        rig.wait_until(lambda: sorted(rig.others) == ["camera_player", "camera_player", "inspection", "inspection"])
        for ending, process in asked:
            process.send_signal(ending)
        for _, process in asked:
            _, errors = process.communicate(timeout=WAIT_S)
            # On a busy machine the node lives long enough to warn that nobody has configured it.
            said = [line for line in without_middleware(errors) if "health: unconfigured" not in line]
            assert (process.returncode, said) == (0, [])
    finally:
        for _, process in asked:
            process.kill()


@pytest.mark.parametrize(
    ("node", "parameters", "says"),
    [
        ("node", {"deadline_s": 5}, "inspection: Trying to set parameter 'deadline_s'"),
        ("node", {"budjet": "2GB"}, "inspection: there is no parameter 'budjet'; did you mean 'budget'?"),
        ("node", {"cameras": []}, "inspection: cameras is given no value"),
        ("node", {"cameras": ["image", 3]}, "inspection: "),
        ("node", {"qos_overrides./image.subscription.reliability": "reliabel"}, "set one of reliable, best_effort"),
        ("node", {"qos_overrides./image.subscription.durability": "volatile"}, "set reliability, history, depth"),
        ("node", {"qos_overrides./image.subscription.depth": "deep"}, "set a whole number"),
        ("node", {"qos_overrides.image.reliability": "reliable"}, "write qos_overrides./TOPIC.subscription"),
        (
            "replay.player",
            {"max_frame": 3},
            "camera_player: there is no parameter 'max_frame'; did you mean 'max_frames'?",
        ),
        (
            "recording.recorder",
            {"folders": "x"},
            "flight_recorder: there is no parameter 'folders'; did you mean 'folder'?",
        ),
        ("replay.player", {"rate_hz": 2}, "camera_player: Trying to set parameter 'rate_hz'"),
        ("replay.player", {"rate_hz": 1000.0}, "camera_player: Invalid parameter value (1000.0)"),
        ("replay.player", {"image_transport": "compresed"}, "set one of raw, compressed"),
        ("replay.player", {"source": 99}, "camera_player: camera 99 "),
        ("recording.recorder", {"pictures_hz": 1}, "flight_recorder: Trying to set parameter 'pictures_hz'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_in_a_line(node, parameters, says, tmp_path):
    ended = subprocess.run(
        ros_command(node, **parameters), capture_output=True, text=True, timeout=WAIT_S, cwd=tmp_path, check=False
    )
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_player_and_recorder_read_when_they_start_is_not_changed_in_flight(pictures, tmp_path):
    player = CameraPlayer(parameter_overrides=[Parameter("source", value=str(pictures))])
    recorder = FlightRecorder(parameter_overrides=[Parameter("folder", value=str(tmp_path))])
    try:
        for node, name, value in ((player, "rate_hz", 1.0), (recorder, "pictures_hz", 0.0)):
            [result] = node.set_parameters([Parameter(name, value=value)])
            assert "read-only" in result.reason
        [result] = player.set_parameters([Parameter("frame_id", value="left")])
        assert result.successful
    finally:
        recorder.close()
        for node in (player, recorder):
            node.destroy_node()


def test_a_file_of_parameters_that_is_missing_is_refused_in_a_line():
    command = [*ros_command("node"), "--params-file", "missing.yaml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 1
    assert "missing.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--rate", "1000"], ["--frames", "0"]])
def test_a_demo_that_cannot_be_flown_is_refused_as_usage(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bundle", *wrong])
    assert ended.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_a_node_that_starts_itself_reports_without_being_asked(rig):
    process = subprocess.Popen([*scripted_node(), "--ros-args", "-p", "autostart:=true", "-p", "skip_below:=0.0"])
    try:
        rig.connect("image")
        rig.wait_until(lambda: rig.publish_frame() or rig.reports)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_what_ros_takes_of_a_node_is_in_its_plan(rig, tiny_bundle):
    command = ros_command("node", bundle=str(tiny_bundle), autostart=True, max_report_tokens=20)
    with running(command):
        rig.wait_until(lambda: rig.health and "memory_plan/process/measured_bytes" in rig.health.values)
        values = rig.health.values
    measured, planned = (int(values[f"memory_plan/process/{kind}_bytes"]) for kind in ("measured", "planned"))
    assert 120_000_000 < measured <= planned


def test_a_node_that_was_killed_reports_again_within_5_s_of_its_death(rig, tiny_bundle):
    command = ros_command("node", bundle=str(tiny_bundle), autostart=True, max_report_tokens=20)
    first = subprocess.Popen(command)
    try:
        rig.wait_until(lambda: rig.publish_frame() or rig.reports)
    finally:
        first.kill()
    killed_s = time.monotonic()
    assert first.wait(WAIT_S) == -signal.SIGKILL
    time.sleep(RESPAWN_DELAY_S)
    second = subprocess.Popen(command)
    try:
        rig.listen(0.5)
        rig.reports.clear()
        rig.wait_until(lambda: rig.publish_frame() or rig.reports)
        assert time.monotonic() - killed_s < 5.0 * slowness()
    finally:
        second.kill()
        second.wait(WAIT_S)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("node", [TALKATIVE_NODE, HANGING_NODE], ids=["a long report", "an engine that hangs"])
def test_a_node_that_is_asked_to_end_again_and_again_ends_in_order_amid_a_report(rig, node, ending):
    command = [sys.executable, "-c", node, "--ros-args", "-p", "autostart:=true", "-p", "stuck_after_s:=0.0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        rig.connect("image")
        rig.wait_until(lambda: rig.publish_frame() or (rig.health and float(rig.health.values.get("busy_s", "0")) > 0))
        for _ in range(3):  # as systemd to the control group, and launch for systemd
            process.send_signal(ending)
            rig.listen(0.05)
        _, errors = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert (process.returncode, "Traceback" in errors) == (0, False)
    assert ("did not end within" in errors) == (node == HANGING_NODE)
    rig.listen(0.2)
    assert [report.truncated for report in rig.reports] == ([] if node == HANGING_NODE else [True])


def test_a_node_whose_engine_hangs_and_cannot_be_opened_again_ends_for_its_supervisor(rig):
    command = [sys.executable, "-c", HANGING_NODE, "--ros-args", "-p", "stuck_after_s:=0.2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert rig.configure()
        assert rig.change(Transition.TRANSITION_ACTIVATE)
        rig.connect("image")
        rig.publish_frame()
        _, errors = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == GIVEN_UP_EXIT_CODE
    assert "an inspection hangs" in errors
    assert "Traceback" not in errors


def test_a_node_whose_engine_fails_again_after_it_was_opened_anew_ends_for_its_supervisor(rig):
    command = [sys.executable, "-c", FAILING_NODE, "--ros-args", "-p", "autostart:=true"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        rig.connect("image")
        rig.wait_until(lambda: rig.publish_frame() or process.poll() is not None)
        _, errors = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == GIVEN_UP_EXIT_CODE
    assert "an illegal memory access; opening the bundle anew has not helped" in errors
    assert "Traceback" not in errors
