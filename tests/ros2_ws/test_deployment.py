"""What is deployed fits the nodes: parameter files, launch files and the security policy."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
import yaml

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from inspection_ros.recording.recorder import FlightRecorder
from inspection_ros.replay.player import CameraPlayer
from inspection_ros.settings import SETTINGS, refusal
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import Parameter

from tests.fakes import ScriptedInspector
from tests.ros2_ws.conftest import PACKAGE
from tests.ros2_ws.rig import WAIT_S
from tests.ros2_ws.test_node import scripted

ROOT = PACKAGE.parents[2]
CONFIG = PACKAGE / "config"
UNHEARD = {"/image/compressed", "/clock"}  # topics that a node hears where it is told to
JAZZY = "/get_type_description"
NO_LAUNCH = "no launch: ros2_ws/setup_ros.py could not fetch it, and no ROS is sourced"


PARAMETER_FILES = [CONFIG / "inspection.yaml", *(CONFIG / "devices").glob("*.yaml")]


@pytest.mark.parametrize("file", PARAMETER_FILES, ids=lambda file: file.stem)
def test_parameter_files_hold_what_the_node_takes(file):
    parameters = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    settings = {setting.name: setting for setting in SETTINGS}
    for name, value in parameters.items():
        assert refusal(name, value, is_configured=False, is_active=False) == ""
        assert type(value) is type(settings[name].default)


@pytest.fixture(scope="module")
def policy():
    return ElementTree.parse(CONFIG / "security" / "policy.xml").getroot()


def allowed(policy, node, kind, permission):
    """The full names that the policy allows a node, of the root namespace."""
    profile = policy.find(f".//profile[@node='{node}']")
    names = (element.text for element in profile.findall(f"{kind}s[@{permission}='ALLOW']/{kind}"))
    return {name if name.startswith("/") else f"/{name}" for name in names}


def assert_exactly(policy, node, rig):
    """The policy allows a node what it does and, beside what only some distributions or settings do, nothing else."""
    does = {kind: rig.names(kind, node) for kind in ("publisher", "subscriber", "service")}
    published = {name for name in does["publisher"] if "/_action/" not in name}
    served = {name for name in does["service"] if "/_action/" not in name}
    actions = {name.partition("/_action/")[0] for name in does["service"] if "/_action/" in name}
    assert allowed(policy, node, "topic", "publish") == published | (
        {"/camera_info", "/image/compressed"} if node == "camera" else set()
    )
    assert allowed(policy, node, "topic", "subscribe") - UNHEARD == does["subscriber"]
    assert allowed(policy, node, "service", "reply") - {f"/{node}{JAZZY}"} == served - {f"/{node}{JAZZY}"}
    assert allowed(policy, node, "action", "execute") == actions


def test_the_security_policy_allows_exactly_what_the_inspection_node_does(rig, policy):
    rig.fly(scripted(ScriptedInspector()))
    rig.wait_until(lambda: "/pose" in rig.names("subscriber", "inspection"))
    rig.listen(0.5)
    assert_exactly(policy, "inspection", rig)


@pytest.mark.parametrize("node", ["flight_recorder", "camera"])
def test_the_security_policy_allows_exactly_what_recorder_and_camera_do(rig, policy, tmp_path, node):
    settings = {"flight_recorder": {"folder": str(tmp_path)}, "camera": {"source": "rendered:1"}}[node]
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    names = ["--ros-args", "-r", f"__node:={node}"]
    kind = {"flight_recorder": FlightRecorder, "camera": CameraPlayer}[node]
    running = kind(parameter_overrides=overrides, cli_args=names)
    try:
        rig.wait_until(lambda: node in rig.others)
        rig.listen(0.5)
        assert_exactly(policy, node, rig)
    finally:
        running.destroy_node()


def described(name):
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    return runpy.run_path(str(PACKAGE / "launch" / name))["generate_launch_description"]()


def test_the_launch_files_take_what_the_documentation_says():
    arguments = {argument.name for argument in described("inspection.launch.py").get_launch_arguments()}
    assert arguments == {"bundle", "namespace", "image", "device", "params_file", "autostart", "use_sim_time"}
    arguments |= {"camera_package", "camera_executable", "camera_params", "recordings"}
    assert {argument.name for argument in described("drone.launch.py").get_launch_arguments()} == arguments


def test_fast_dds_takes_the_profile_of_large_frames(ros):
    command = [sys.executable, "-c", "import rclpy; rclpy.init(); rclpy.create_node('frames'); rclpy.shutdown()"]
    environment = dict(os.environ, FASTRTPS_DEFAULT_PROFILES_FILE=str(CONFIG / "fastdds.xml"))
    started = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert started.returncode == 0
    assert "XMLPARSER" not in started.stdout + started.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of processes that find the package where colcon installed it."""
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    folder = tmp_path_factory.mktemp("workspace")
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build", "--base-paths", str(PACKAGE)]
    subprocess.run([*command, "--packages-select", "inspection_ros"], cwd=folder, check=True, timeout=120)
    prefix = folder / "install" / "inspection_ros"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    paths = (str(ROOT), str(prefix / f"lib/python{python}/site-packages"), os.environ.get("PYTHONPATH", ""))
    search = {
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return {**os.environ, **search}


LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
service = LaunchService()
included = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(file), launch_arguments=[argument.split(":=") for argument in arguments]
)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


def launched(environment, name, *arguments):
    """A launch file of the package in ``environment``, run to its end."""
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    command = [sys.executable, "-c", LAUNCH, str(PACKAGE / "launch" / f"{name}.launch.py"), *arguments]
    return subprocess.run(
        command, env=environment, start_new_session=True, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["device:=orin"], "there is no device 'orin'; name one of agx-orin-32gb, agx-orin-64gb, desktop, orin-nano"),
        (["params_file:=/missing.yaml"], "params_file '/missing.yaml' is no file"),
        (["device:=orin", "params_file:=/missing.yaml"], "there is no device 'orin'"),
    ],
)
def test_a_node_without_the_parameters_that_were_asked_for_is_not_launched(ros, arguments, words):
    ended = launched(os.environ, "inspection", "bundle:=/data/bundle", *arguments)
    assert ended.returncode == 1
    assert words in ended.stdout
    assert "process started" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (["camera_package:=missing", "camera_executable:=x", "camera_params:=/x.yaml"], "package 'missing' not found"),
        (["camera_package:=inspection_ros", "camera_executable:=x", "camera_params:=/x.yaml"], "executable 'x' not"),
        (["camera_package:=inspection_ros", "camera_executable:=player", "camera_params:=/x.yaml"], "is no file"),
    ],
)
def test_a_drone_without_a_camera_launches_nothing(ros, installed, camera, words):
    ended = launched(installed, "drone", "bundle:=/data/bundle", *camera)
    assert ended.returncode == 1
    assert words in ended.stdout
    assert "process started" not in ended.stdout + ended.stderr


def test_parameters_of_a_file_go_on_top_of_the_device_s(rig, installed, tiny_bundle, tmp_path):
    (tmp_path / "mine.yaml").write_text("/**:\n  ros__parameters:\n    max_rate_hz: 0.5\n")
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    command = [sys.executable, "-c", LAUNCH, str(PACKAGE / "launch" / "inspection.launch.py")]
    command += [f"bundle:={tiny_bundle}", "device:=orin-nano-8gb", f"params_file:={tmp_path / 'mine.yaml'}"]
    launch = subprocess.Popen([*command, "autostart:=false"], env=installed, start_new_session=True)
    try:
        names = ["budget", "deadline_s", "max_rate_hz", "skip_below"]
        values = rig.call(GetParameters, "inspection/get_parameters", names=names).values
    finally:
        os.killpg(launch.pid, signal.SIGINT)
        launch.wait(WAIT_S)
    assert values[0].string_value == "5.84GB"
    assert [value.double_value for value in values[1:]] == [15.0, 0.5, 0.35]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("service call /inspection/get_state lifecycle_msgs/srv/GetState", "label='active'"),
        ("interface show inspection_msgs/msg/Finding", "float64 confidence"),
        ("service call /inspection/get_memory_plan inspection_msgs/srv/GetMemoryPlan", "name='weights'"),
    ],
)
def test_the_command_line_of_ros_speaks_with_the_node(rig, command, words):
    pytest.importorskip("ros2cli", reason=NO_LAUNCH)
    rig.fly(scripted(ScriptedInspector()))
    subcommand, verb, *arguments = command.split()
    ros2 = [sys.executable, "-c", "import ros2cli.cli; ros2cli.cli.main()", subcommand, verb]
    asked = subprocess.Popen([*ros2, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    answer, _ = asked.communicate(timeout=WAIT_S)
    assert words in answer
    assert asked.returncode == 0


def test_a_launched_drone_reports_records_and_is_up_again_within_5_s_of_being_killed(
    rig, installed, tiny_bundle, tmp_path
):
    share = Path(installed["AMENT_PREFIX_PATH"].partition(":")[0], "share", "inspection_ros")
    rendered = share / "config/rendered_camera.yaml"
    arguments = [f"bundle:={tiny_bundle}", f"recordings:={tmp_path / 'flights'}"]
    arguments += ["camera_package:=inspection_ros", "camera_executable:=player", f"camera_params:={rendered}"]
    launch_file = str(share / "launch/drone.launch.py")
    launch = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, launch_file, *arguments],
        env=installed,
        start_new_session=True,
    )
    try:
        rig.wait_until(lambda: rig.reports)
        children = psutil.Process(launch.pid).children()
        next(child for child in children if "lib/inspection_ros/node" in str(child.cmdline())).kill()
        killed_s = time.monotonic()
        rig.listen(0.5)
        rig.reports.clear()
        rig.wait_until(lambda: rig.reports)
        assert time.monotonic() - killed_s < 5.0 * slowness()
    finally:
        os.killpg(launch.pid, signal.SIGINT)  # as Ctrl-C and the systemd unit do; launch itself passes it on to nobody
        launch.wait(WAIT_S)
    assert launch.returncode == 0
    assert list((tmp_path / "flights").glob("*.mcap"))


def slowness():
    """How many times slower than an idle machine this one starts a Python that imports what the node does, about."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import edge_runtime.inspector, rclpy"], check=True, timeout=WAIT_S)
    return max(1.0, time.monotonic() - started_s)
