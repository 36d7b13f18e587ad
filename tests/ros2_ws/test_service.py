"""The systemd unit starts a drone with everything that has no default, and with nothing that nobody told it."""

import os
import re
import shlex
import shutil
import subprocess

from tests.ros2_ws.conftest import PACKAGE

UNIT = PACKAGE / "config" / "systemd" / "inspection.service"


def test_the_systemd_unit_waits_for_an_address():
    unit = UNIT.read_text()
    assert "Wants=network-online.target" in unit
    assert "After=network-online.target" in unit


def launch_files():
    return "".join((PACKAGE / "launch" / f"{name}.launch.py").read_text() for name in ("drone", "inspection"))


def test_the_systemd_unit_gives_the_camera_and_whatever_else_has_no_default():
    required = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)", description', launch_files()))
    assert {"bundle", "camera_package", "camera_executable", "camera_params"} <= required
    assert required | {"image"} <= set(re.findall(r"(\w+):=", UNIT.read_text()))


def start(tmp_path, *lines):
    """Run the unit's command with these lines of its environment file, and a ``ros2`` that says what it was given."""
    (tmp_path / "ros2").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ros2").chmod(0o755)
    (tmp_path / "setup.sh").touch()
    environment = dict(line.split("=", 1) for line in lines)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROS_SETUP": str(tmp_path / "setup.sh")}
    command = shlex.split(re.search("^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)[1])
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10)


def test_the_systemd_unit_launches_with_the_environment_it_documents_and_not_without_a_line_of_it(tmp_path):
    documented = re.findall(r"^#     (\w+=\S+)$", UNIT.read_text(), re.MULTILINE)
    launched = start(tmp_path, *documented)
    assert launched.returncode == 0
    assert "camera_package:=v4l2_camera" in launched.stdout.splitlines()
    for missing in documented:
        name = missing.partition("=")[0]
        if name not in ("ROS_SETUP", "ROS_DOMAIN_ID"):
            refused = start(tmp_path, *(line for line in documented if line != missing))
            assert refused.returncode != 0
            assert name in refused.stderr


def test_the_systemd_unit_is_sound_and_names_arguments_that_the_launch_file_has():
    named = set(re.findall(r"(\w+):=", UNIT.read_text()))
    assert named <= set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch_files()))
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, timeout=60)
        assert verified.stderr == ""
