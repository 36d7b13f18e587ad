"""Parameters say what they mean, change in flight where that is safe, and are refused with a reason elsewhere."""

import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

import rclpy
from inspection_msgs.srv import SetPrompt
from inspection_ros.parameter_overrides import check_node_names
from inspection_ros.settings import SETTINGS
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import DescribeParameters

from edge_runtime.errors import UsageError
from tests.fakes import ScriptedInspector
from tests.ros2_ws.test_node import scripted


def test_every_parameter_is_described_with_its_range(rig):
    rig.start_node(scripted(ScriptedInspector()))
    names = [setting.name for setting in SETTINGS]
    described = rig.call(DescribeParameters, "inspection/describe_parameters", names=names).descriptors
    assert [descriptor.name for descriptor in described] == names
    assert all(descriptor.description for descriptor in described)
    numbers = [setting.name for setting in SETTINGS if type(setting.default) in (int, float)]
    ranged = [
        descriptor.name for descriptor in described if descriptor.integer_range or descriptor.floating_point_range
    ]
    assert ranged == numbers


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("budget", "lots", "lots"),
        ("image_transport", "theora", "raw, compressed"),
        ("cameras", ["front", "front"], "each once"),
        ("cameras", [""], "each once"),
        ("cameras", ["front-left"], "no topic"),
        ("cameras", ["/1st/image"], "no topic"),
        ("region", [0.5, 0.0, 0.5, 1.0], "from 0 to 1"),
        ("region", [0.0, 1.0], "from 0 to 1"),
        ("tiles", [0, 1], "columns and rows"),
        ("deadline_s", -1.0, "deadline_s"),
        ("skip_below", float("nan"), "skip_below"),
        ("max_rate_hz", "fast", "DOUBLE"),
        ("max_report_tokens", 0, "max_report_tokens"),
    ],
)
def test_nonsense_is_refused_with_a_reason_and_changes_nothing(rig, name, value, reason):
    rig.start_node(scripted(ScriptedInspector()))
    assert reason in rig.set_parameter(name, value)
    assert rig.configure()


def test_what_configure_has_read_is_refused_until_the_node_is_cleaned_up(rig):
    rig.fly(scripted(ScriptedInspector()))
    assert "clean the node up" in rig.set_parameter("bundle", "another")
    assert "deactivate the node" in rig.set_parameter("cameras", ["another"])
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert rig.set_parameter("cameras", ["another"]) == ""
    assert "clean the node up" in rig.set_parameter("bundle", "another")
    assert rig.change(Transition.TRANSITION_CLEANUP)
    assert rig.set_parameter("bundle", "another") == ""


def test_nonsense_that_the_node_is_started_with_is_refused_by_configure_and_can_be_mended(rig):
    rig.start_node(scripted(ScriptedInspector()), budget="lots")
    assert not rig.configure()
    assert rig.state == "unconfigured"
    assert rig.set_parameter("budget", "2GB") == ""
    assert rig.configure()


def test_a_question_that_is_too_long_for_the_bundle_is_refused_and_no_frame_fails(rig):
    rig.start_node(lambda bundle, **keywords: ScriptedInspector(), question="why? " * 500)
    assert not rig.configure()
    rig.wait_until(lambda: rig.health and "ask in fewer words" in rig.health.message)
    assert rig.set_parameter("question", "") == ""
    assert rig.configure()
    assert rig.activate()
    answer = rig.call(SetPrompt, "inspection/set_prompt", question="why? " * 500)
    assert (answer.accepted, "ask in fewer words" in answer.reason) == (False, True)
    assert not rig.send_goal(image=[rig.image()], question="why? " * 500).accepted
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)


def test_an_override_of_a_topic_that_the_node_does_not_have_is_refused_by_activate(rig):
    rig.start_node(scripted(ScriptedInspector()), **{"qos_overrides./imgae.subscription.reliability": "reliable"})
    assert rig.configure()
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    rig.wait_until(lambda: rig.health and "of no topic that can be overridden" in rig.health.message)


def test_question_deadline_and_threshold_change_in_flight(rig):
    inspector = ScriptedInspector(token_delay_s=0.02)
    rig.fly(scripted(inspector))
    rig.publish_frame(stamp=(1, 0))
    rig.wait_until(lambda: len(rig.reports) == 1)
    assert rig.set_parameter("question", "is that rust?") == ""
    assert rig.set_parameter("deadline_s", 0.01) == ""
    rig.publish_frame(stamp=(2, 0))
    rig.wait_until(lambda: len(rig.reports) == 2)
    assert [report.question for report in rig.reports] == ["", "is that rust?"]
    assert [report.truncated for report in rig.reports] == [False, True]
    assert rig.set_parameter("skip_below", 0.35) == ""
    rig.publish_frame(stamp=(3, 0))
    rig.wait_until(lambda: rig.health and rig.health.values.get("frames_skipped") == "1")


def test_a_part_of_the_frame_is_looked_at_in_tiles_from_the_next_frame_on(rig):
    inspector = ScriptedInspector()
    rig.fly(scripted(inspector))
    assert rig.set_parameter("region", [0.5, 0.0, 1.0, 1.0]) == ""
    assert rig.set_parameter("tiles", [1, 2]) == ""
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)
    assert inspector.frame_shapes == [(25, 32, 3), (25, 32, 3)]  # of 48x64, with an overlap of a twentieth each
    (finding,) = rig.reports[0].findings
    assert 0.5 <= finding.region.x_min < finding.region.x_max <= 1.0


def test_the_prompt_can_be_set_by_a_service(rig):
    inspector = ScriptedInspector()
    rig.fly(scripted(inspector))
    answer = rig.call(SetPrompt, "inspection/set_prompt", question="how wide is the crack?")
    assert (answer.accepted, answer.reason) == (True, "")
    rig.publish_frame()
    rig.wait_until(lambda: rig.reports)
    assert inspector.questions == ["how wide is the crack?"]


GIVEN = "{ros__parameters: {question: rust}}"
NAMES = ["inspection", "/inspection", "'**'", "/**", "/*", "/*/inspection", "/**/inspection", "/drone1/inspection"]
NAMES += ["/drone1/**", "/drone1/*", "/**/drone1/*", "inspector", "/inspection1", "/drone2/inspection"]


def check_as_rcl_does(namespace, *arguments):
    node = rclpy.create_node("inspection", namespace=namespace, cli_args=["--ros-args", *arguments])
    try:
        if "question" in node._parameter_overrides:
            check_node_names(node, ["node", "--ros-args", *arguments])
        else:
            with pytest.raises(UsageError, match=f"none of {namespace.rstrip('/')}/inspection, as this node is called"):
                check_node_names(node, ["node", "--ros-args", *arguments])
    finally:
        node.destroy_node()


@pytest.mark.parametrize("namespace", ["/", "/drone1"])
def test_parameters_of_a_file_for_nodes_of_other_names_are_refused_where_rcl_passes_over_them(ros, tmp_path, namespace):
    file = tmp_path / "mine.yaml"
    nested = "drone1: {inspection: " + GIVEN + "}"
    for text in [nested, f"/inspector: {GIVEN}\n/inspection: {GIVEN}", *(f"{name}: {GIVEN}" for name in NAMES)]:
        file.write_text(text)
        check_as_rcl_does(namespace, "--params-file", str(file))


@pytest.mark.parametrize("given", ["", "inspection:", "inspector:"])
def test_a_parameter_for_a_node_of_another_name_is_refused(ros, given):
    check_as_rcl_does("/", "-p", f"{given}question:=rust")
