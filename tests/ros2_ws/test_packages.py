"""Both packages build the way a robot builds them, and install their executables, launch file and parameters."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakes import ScriptedInspector

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
    assert (prefix / "share/inspection_ros/config/foxglove.json").is_file()
    assert (prefix / "share/ament_index/resource_index/packages/inspection_ros").is_file()
    for executable in ("node", "player", "recorder"):
        assert os.access(prefix / "lib/inspection_ros" / executable, os.X_OK)


def test_the_launch_file_takes_a_bundle_a_namespace_a_camera_and_parameters():
    pytest.importorskip("launch_ros", reason="launch comes with a ROS installation, not from PyPI")
    described = runpy.run_path(str(PACKAGE / "launch" / "inspection.launch.py"))["generate_launch_description"]()
    arguments = {argument.name for argument in described.get_launch_arguments()}
    assert arguments == {"bundle", "namespace", "image", "params_file"}


def test_the_parameter_file_gives_the_defaults_that_the_node_declares(ros):
    pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")
    from inspection_ros.node import InspectionNode

    settings = yaml.safe_load((PACKAGE / "config" / "inspection.yaml").read_text())["/**"]["ros__parameters"]
    node = InspectionNode(lambda bundle, **keywords: ScriptedInspector())
    try:
        declared = {name: node.get_parameter(name).value for name in settings}
    finally:
        node.destroy_node()
    assert declared == {**settings, "budget": ""}  # the file keeps the budget; without it, all memory may be taken
