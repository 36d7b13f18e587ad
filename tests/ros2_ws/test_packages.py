"""Both packages build the way a robot builds them, and install their executables, launch file and parameters."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edge_runtime.memory.plan import parse_bytes

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "inspection_ros"


@pytest.mark.skipif(importlib.util.find_spec("colcon_core") is None, reason="no ROS 2: colcon is not installed")
def test_colcon_installs_nodes_launch_file_and_parameters(tmp_path):
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build", "--base-paths", str(PACKAGE)]
    built = subprocess.run(
        [*command, "--packages-select", "inspection_ros"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    prefix = tmp_path / "install" / "inspection_ros"
    assert (prefix / "share/inspection_ros/launch/inspection.launch.py").is_file()
    assert (prefix / "share/inspection_ros/config/inspection.yaml").is_file()
    assert (prefix / "share/inspection_ros/launch/drone.launch.py").is_file()
    for file in ("rendered_camera.yaml", "devices/desktop.yaml", "security/policy.xml", "systemd/inspection.service"):
        assert (prefix / "share/inspection_ros/config" / file).is_file()
    assert (prefix / "share/ament_index/resource_index/packages/inspection_ros").is_file()
    for executable in ("node", "player", "recorder"):
        assert os.access(prefix / "lib/inspection_ros" / executable, os.X_OK)


@pytest.mark.skipif(importlib.util.find_spec("colcon_core") is None, reason="no ROS 2: colcon is not installed")
def test_colcon_test_finds_the_tests(tmp_path):
    command = [sys.executable, "-m", "colcon", "--log-base", "log"]
    chosen = ["--base-paths", str(PACKAGE), "--packages-select", "inspection_ros"]
    for verb in (["build"], ["test", "--event-handlers", "console_direct+", "--pytest-args", "--collect-only"]):
        done = subprocess.run(
            [*command, verb[0], *chosen, *verb[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert "test_the_node_in_its_repository" in done.stdout


def test_the_runner_without_a_command_says_how_it_is_used():
    run = subprocess.run([PACKAGE.parents[1] / "run"], capture_output=True, text=True, timeout=10)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: ros2_ws/run COMMAND")


def test_the_documented_launch_has_the_budget_of_the_bundle_that_is_documented_with_it():
    page = (PACKAGE.parents[2] / "docs" / "deployment.md").read_text()
    (built,) = set(re.findall(r"edge-engines build .*--budget (\S+)", page))
    devices = re.findall(r"ros2 launch inspection_ros .*device:=(\S+)", page)
    assert len(devices) == page.count("ros2 launch inspection_ros ") > 0
    for device in devices:
        parameters = yaml.safe_load((PACKAGE / "config" / "devices" / f"{device}.yaml").read_text())
        assert parse_bytes(parameters["/**"]["ros__parameters"]["budget"]) >= parse_bytes(built)
