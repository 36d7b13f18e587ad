"""An inspection on demand: of a given frame or the next one, its text as it grows, its deadline, its cancellation."""

import threading

import numpy as np
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from action_msgs.msg import GoalStatus
from inspection_msgs.action import Ask
from inspection_msgs.srv import GetMemoryPlan
from lifecycle_msgs.msg import Transition

from edge_runtime.errors import BackendError
from edge_runtime.inspector import Inspector
from edge_runtime.reports.report import InspectionReport
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.rig import WAIT_S
from tests.ros2_ws.test_node import scripted

SEEN = [InspectionReport(findings=(CRACK,), tokens=12)]
LARGE = np.full((96, 128, 3), 90, np.uint8)


def test_a_given_frame_is_inspected_and_its_text_streams(rig):
    inspector = ScriptedInspector(SEEN, token_delay_s=0.01)
    rig.fly(scripted(inspector))
    texts = []
    goal = rig.send_goal(texts.append, image=[rig.image((5, 6), "hand", LARGE)], question="what is it?")
    status, result = rig.result_of(goal)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.failure, result.report.question, result.report.header.stamp.sec) == ("", "what is it?", 5)
    assert [finding.defect_class for finding in result.report.findings] == ["crack"]
    assert inspector.frame_shapes == [LARGE.shape]
    rig.wait_until(lambda: len(texts) >= 3)
    assert texts == sorted(texts, key=len)
    assert rig.reports == []


def test_the_next_frame_of_a_camera_is_inspected(rig):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    goal = rig.send_goal(camera="image")
    rig.publish_frame(stamp=(3, 0))
    status, result = rig.result_of(goal)
    assert (status, result.report.header.stamp.sec) == (GoalStatus.STATUS_SUCCEEDED, 3)
    rig.wait_until(lambda: rig.reports)
    assert (rig.reports[0].header.stamp.sec, rig.reports[0].frames_received) == (3, 1)


def test_an_answer_is_cut_at_the_deadline(rig):
    rig.fly(scripted(ScriptedInspector(SEEN, token_delay_s=0.1)))
    status, result = rig.result_of(rig.send_goal(image=[rig.image()], deadline_s=0.25))
    assert (status, result.report.truncated) == (GoalStatus.STATUS_SUCCEEDED, True)


def test_a_deadline_that_passes_before_a_frame_comes_aborts_with_the_reason(rig):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    status, result = rig.result_of(rig.send_goal(deadline_s=0.1))
    assert (status, result.failure) == (GoalStatus.STATUS_ABORTED, "no frame came in time")


class Held(ScriptedInspector):
    """An inspector that looks at one frame until it is let go, or pauses until then."""

    def __init__(self, pauses=False):
        super().__init__(SEEN)
        self._pauses = pauses
        self.started, self.let_go = threading.Event(), threading.Event()

    def inspect(self, *arguments, **keywords):
        self.started.set()
        assert self.let_go.wait(WAIT_S)
        return super().inspect(*arguments, **keywords)

    def rest_s(self):
        return 0.05 if self._pauses and not self.let_go.is_set() else 0.0


@pytest.mark.parametrize("pauses", [False, True], ids=["another frame", "a pause"])
@pytest.mark.parametrize("ending", ["deadline", "cancellation"])
@pytest.mark.parametrize("given", [True, False], ids=["a given frame", "the next frame"])
def test_a_goal_is_answered_in_time_whatever_the_pipeline_is_doing(rig, pauses, ending, given):
    inspector = Held(pauses)
    rig.fly(scripted(inspector))
    rig.publish_frame(stamp=(1, 0))
    if not pauses:
        rig.wait_until(inspector.started.is_set)
    image = [rig.image()] if given else []
    goal = rig.send_goal(image=image, deadline_s=0.2 if ending == "deadline" else 0.0)
    if ending == "cancellation":
        rig.cancel(goal)
    status, result = rig.result_of(goal)
    expected = GoalStatus.STATUS_ABORTED if ending == "deadline" else GoalStatus.STATUS_CANCELED
    reason = "time was up before the frame could be looked at" if given else "no frame came in time"
    assert (status, result.failure) == (expected, reason)
    assert not inspector.let_go.is_set()
    inspector.let_go.set()
    rig.wait_until(lambda: rig.reports)
    assert inspector.questions == [""]


def test_a_goal_whose_frame_is_looked_at_for_too_long_is_answered_all_the_same(rig):
    inspector = Held()
    rig.fly(scripted(inspector))
    status, result = rig.result_of(rig.send_goal(image=[rig.image()], deadline_s=0.1))
    assert (status, result.failure) == (GoalStatus.STATUS_ABORTED, "the inspection did not end in time")
    inspector.let_go.set()
    rig.publish_frame(stamp=(2, 0))
    rig.wait_until(lambda: rig.reports)


def test_a_canceled_goal_ends_with_what_was_written_and_the_stream_goes_on(rig):
    rig.fly(scripted(ScriptedInspector([InspectionReport(tokens=500)], token_delay_s=0.02)))
    texts = []
    goal = rig.send_goal(texts.append, image=[rig.image()])
    rig.wait_until(lambda: texts)
    rig.cancel(goal)
    status, result = rig.result_of(goal)
    assert (status, result.report.truncated) == (GoalStatus.STATUS_CANCELED, True)
    assert 0 < result.report.tokens < 500


def test_a_frame_that_cannot_be_inspected_aborts_with_the_reason(rig):
    rig.fly(scripted(ScriptedInspector([BackendError("the engine failed")])))
    status, result = rig.result_of(rig.send_goal(image=[rig.image()]))
    assert (status, result.failure) == (GoalStatus.STATUS_ABORTED, "the engine failed")
    status, result = rig.result_of(rig.send_goal(image=[rig.image(encoding="nonsense")]))
    assert status == GoalStatus.STATUS_ABORTED
    assert "nonsense" in result.failure


@pytest.mark.parametrize("asked", [{"camera": "rear"}, {"deadline_s": -1.0}, {"deadline_s": float("nan")}])
def test_a_goal_that_makes_no_sense_is_turned_away(rig, asked):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    assert not rig.send_goal(**asked).accepted


def test_a_node_that_is_not_active_turns_goals_away(rig):
    rig.start_node(scripted(ScriptedInspector(SEEN)))
    assert not rig.send_goal().accepted


def test_deactivate_answers_the_goal_that_waits_for_a_frame(rig):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    goal = rig.send_goal()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    status, result = rig.result_of(goal)
    assert (status, result.failure) == (GoalStatus.STATUS_ABORTED, "the node is not active any more")


def test_the_memory_plan_can_be_asked_for_while_a_bundle_is_open(rig):
    rig.start_node(scripted(ScriptedInspector()))
    assert not rig.call(GetMemoryPlan, "inspection/get_memory_plan").is_open
    assert rig.configure()
    memory_plan = rig.call(GetMemoryPlan, "inspection/get_memory_plan")
    assert memory_plan.is_open
    assert [(item.name, item.planned_bytes, item.measured_bytes) for item in memory_plan.items] == [
        ("weights", 1_000_000, 1_100_000)
    ]
    assert (memory_plan.planned_bytes, memory_plan.budget_bytes) == (1_000_000, 2_000_000)


def test_a_question_about_a_given_frame_is_answered_and_its_text_streams(rig):
    inspector = ScriptedInspector(token_delay_s=0.01)
    rig.fly(scripted(inspector))
    texts = []
    asked = {"action": Ask, "image": [rig.image((5, 6), "hand", LARGE)], "question": "is there any rust on it"}
    status, result = rig.result_of(rig.send_goal(texts.append, **asked))
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.failure, result.answer, result.header.stamp.sec) == ("", "is there any rust on it", 5)
    assert inspector.frame_shapes == [LARGE.shape]
    rig.wait_until(lambda: "is there" in texts)
    assert rig.reports == []


def test_a_choice_comes_with_its_probabilities_from_the_next_frame(rig):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    goal = rig.send_goal(action=Ask, question="rust?", choices=["yes", "no"])
    rig.publish_frame(stamp=(3, 0))
    status, result = rig.result_of(goal)
    assert (status, result.header.stamp.sec) == (GoalStatus.STATUS_SUCCEEDED, 3)
    assert (result.answer, list(result.probabilities)) == ("yes", [1.0, 0.0])


def test_a_question_is_cut_at_its_deadline(rig):
    rig.fly(scripted(ScriptedInspector(token_delay_s=0.1)))
    asked = {"action": Ask, "image": [rig.image()], "question": "a b c d e f g h", "deadline_s": 0.25}
    status, result = rig.result_of(rig.send_goal(**asked))
    assert (status, result.truncated) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert "a b c d e f g h".startswith(result.answer)


@pytest.mark.parametrize(
    "fields",
    [
        {"question": ""},
        {"question": "rust?", "camera": "rear"},
        {"question": "rust?", "deadline_s": float("nan")},
        {"question": "rust?", "choices": ["yes", "no"], "json_schema": "{}"},
        {"question": "rust?", "json_schema": "{"},
        {"question": "rust?", "json_schema": "[]"},
    ],
    ids=str,
)
def test_a_question_that_cannot_be_put_is_turned_away(rig, fields):
    rig.fly(scripted(ScriptedInspector(SEEN)))
    assert not rig.send_goal(action=Ask, **fields).accepted


def test_a_model_answers_in_every_form(rig, tiny_bundle):
    rig.fly(Inspector.open, bundle=str(tiny_bundle))
    asked = {"action": Ask, "image": [rig.image()], "question": "is there any rust?"}
    assert not rig.send_goal(**asked, choices=["yes"]).accepted
    assert not rig.send_goal(**asked, json_schema='{"type": "nonsense"}').accepted
    _, chosen = rig.result_of(rig.send_goal(**asked, choices=["yes", "no"]))
    assert sum(chosen.probabilities) == pytest.approx(1)
    _, counted = rig.result_of(rig.send_goal(**asked, json_schema='{"type": "integer", "minimum": 0, "maximum": 9}'))
    assert int(counted.answer) in range(10)
    _, told = rig.result_of(rig.send_goal(**asked, max_tokens=7))
    assert (told.tokens, told.truncated) == (7, True)
