"""Nothing is used that only one of Humble and Jazzy has: the names of Humble's rclpy are in humble_names.json.

The tests run on Jazzy's rclpy, so what Humble lacks is all that has to be looked for.
"""

import ast
import json
import os
from pathlib import Path

import pytest

from tests.ros2_ws.conftest import PACKAGE

HUMBLE = json.loads(Path(__file__).with_name("humble_names.json").read_text())
FILES = sorted((PACKAGE / "inspection_ros").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_imported_of_rclpy_is_in_humble(file):
    for statement in ast.walk(ast.parse(file.read_text())):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").partition(".")[0] == "rclpy":
            assert {alias.name for alias in statement.names} <= set(HUMBLE["modules"][statement.module])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_asked_of_a_node_is_in_humble(file):
    lifecycle = pytest.importorskip("rclpy.lifecycle", reason="no ROS 2: run ros2_ws/setup_ros.py")
    jazzy = set(dir(lifecycle.LifecycleNode)) - set(dir(object))
    tree = ast.parse(file.read_text())
    asked = {found.attr for found in ast.walk(tree) if isinstance(found, ast.Attribute)} & jazzy
    assert asked <= set(HUMBLE["node"])
    for call in (found for found in ast.walk(tree) if isinstance(found, ast.Call)):
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if method in HUMBLE["parameters"] and method != "__init__":
            assert {keyword.arg for keyword in call.keywords} <= set(HUMBLE["parameters"][method])


def test_where_the_two_differ_the_words_of_the_distribution_at_hand_are_used(monkeypatch):
    from inspection_ros.loopback_only import keep_ros_local

    names = {"ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE"}
    spoken = {}
    for distribution in ("humble", "jazzy"):
        for name in names:
            monkeypatch.setenv(name, "to be put back afterwards")
            monkeypatch.delenv(name)
        monkeypatch.setenv("ROS_DISTRO", distribution)
        keep_ros_local()
        spoken[distribution] = names & os.environ.keys()
    assert spoken == {"humble": {"ROS_LOCALHOST_ONLY"}, "jazzy": {"ROS_AUTOMATIC_DISCOVERY_RANGE"}}


@pytest.mark.parametrize(
    ("module", "name"),
    [("node", "InspectionNode"), ("replay.player", "CameraPlayer"), ("recording.recorder", "FlightRecorder")],
)
def test_no_node_takes_the_name_of_something_that_rclpy_keeps_in_it(ros, module, name):
    from rclpy.lifecycle import LifecycleNode

    plain = LifecycleNode("plain")
    kept = set(vars(plain))
    plain.destroy_node()
    file = PACKAGE / "inspection_ros" / (module.replace(".", "/") + ".py")
    (node,) = (found for found in ast.parse(file.read_text()).body if getattr(found, "name", "") == name)
    own = {
        found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store) and ast.unparse(found.value) == "self"
    }
    assert not own & kept
