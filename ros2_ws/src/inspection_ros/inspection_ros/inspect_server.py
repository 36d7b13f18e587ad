"""What can be asked of the node: an inspection, another prompt, the memory plan; passes it on, and inspects nothing."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from inspection_msgs.action import Ask, Inspect
from inspection_msgs.msg import InspectionReport as InspectionReportMessage
from inspection_msgs.msg import MemoryPlanItem, Region, Timings
from inspection_msgs.srv import GetMemoryPlan, SetPrompt
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from edge_runtime.language.questions import Choice, Json, Reply, Text
from edge_runtime.memory.plan import MemoryPlan
from edge_runtime.reports.report import InspectionReport
from inspection_ros.pipeline import Pipeline, Request, lateness

# Of a message and its report: the report message with its header, to be sent as an answer.
Answering = Callable[[str, str, Any, InspectionReport], InspectionReportMessage]

_WATCH_PERIOD_S = 0.1
_CUT_WITHIN_S = 1.0  # a token of a 13B takes a tenth of that on an Orin


class _Waiting:
    """A goal that waits for its answer, which comes once: from the pipeline's thread, or from the node's."""

    def __init__(self, goal: Any, executor: Any, feedback: Any) -> None:
        self._goal = goal
        self._feedback = feedback  # the action's own type
        self._executor = executor
        self._lock = threading.Lock()
        self._ends_s = time.monotonic() + goal.request.deadline_s if goal.request.deadline_s else math.inf
        self.is_answered = False
        self.answered = Future(executor=executor)

    def should_continue(self, written: str) -> bool:
        """Whether the answer is still wanted; tells whoever asked how far it is written."""
        if self.is_answered:
            return False
        if written:
            self._goal.publish_feedback(self._feedback(text=written))
        return self.late_s() < 0

    def late_s(self) -> float:
        """For how long nobody has wanted the answer any more; negative while somebody does."""
        if self._goal.is_cancel_requested:
            self._ends_s = min(self._ends_s, time.monotonic())
        return time.monotonic() - self._ends_s

    def answer(self, message: Any, result: InspectionReport | Reply | None, failure: str) -> None:
        """Give the answer, unless there has been one."""
        with self._lock:
            if self.is_answered:
                return
            self.is_answered = True
        self.answered.set_result((message, result, failure))
        self._executor.wake()


class Asked(Protocol):
    """What the node lets its visitors see, as it is at the moment."""

    @property
    def pipeline(self) -> Pipeline[Any] | None:
        """None while the node is not active."""

    @property
    def memory_plan(self) -> MemoryPlan | None:
        """None while no bundle is open."""

    @property
    def cameras(self) -> Sequence[str]:
        """The topics that the node subscribes to while it is active."""

    def question_refusal(self, question: str) -> str:
        """Why the question cannot be put to the model; empty where it can."""

    def ask_refusal(self, question: str, answer: Text | Choice | Json) -> str:
        """Why the question cannot be answered alone, in that form; empty where it can."""


class InspectServer:
    """Where the node is asked; lives as long as the node, and turns goals away while that is not active.

    ``answer`` makes the message of a report. rclpy has no word for why a goal was turned away, so the log says it.
    """

    def __init__(self, node: Node, asked: Asked, answer: Answering) -> None:
        self._node = node
        self._asked = asked
        self._answer = answer
        node.create_service(SetPrompt, "inspection/set_prompt", self._set_prompt)
        node.create_service(GetMemoryPlan, "inspection/get_memory_plan", self._get_memory_plan)
        self._actions = ActionServer(
            node,
            Inspect,
            "inspection/inspect",
            self._inspect,
            goal_callback=self._consider,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        self._questions = ActionServer(
            node,
            Ask,
            "inspection/ask",
            self._ask,
            goal_callback=self._consider_question,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        self._waiting: list[tuple[_Waiting, Request[Any]]] = []
        self._watch = node.create_timer(
            _WATCH_PERIOD_S, self._answer_the_late, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._watch.cancel()

    def close(self) -> None:
        """Take the actions down; the services go with the node."""
        self._actions.destroy()
        self._questions.destroy()

    def _consider(self, goal: Any) -> GoalResponse:
        return self._response(self._refusal(goal) or self._asked.question_refusal(goal.question))

    def _consider_question(self, goal: Any) -> GoalResponse:
        reason = self._refusal(goal)
        if not reason:
            try:
                reason = self._asked.ask_refusal(goal.question, _form_of(goal))
            except ValueError as error:
                reason = str(error)
        return self._response(reason)

    def _refusal(self, goal: Any) -> str:
        """Why a goal of either action cannot be met; empty where it can."""
        if self._asked.pipeline is None:
            return "the node is not active"
        if goal.camera and goal.camera not in self._asked.cameras:
            return f"there is no camera {goal.camera!r}; name one of {', '.join(self._asked.cameras)}"
        if not math.isfinite(goal.deadline_s) or goal.deadline_s < 0:
            return f"deadline_s is {goal.deadline_s}; give seconds, or 0 for none"
        return ""

    def _response(self, reason: str) -> GoalResponse:
        if reason:
            self._node.get_logger().warning(f"a goal was turned away: {reason}")
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    async def _inspect(self, goal: Any) -> Any:
        camera, message, report, failure = await self._answered(goal, Inspect.Feedback, None)
        result = Inspect.Result(failure=failure)
        if report is not None:
            result.report = self._answer(camera, goal.request.question, message, report)
        return result

    async def _ask(self, goal: Any) -> Any:
        _, message, reply, failure = await self._answered(goal, Ask.Feedback, _form_of(goal.request))
        if reply is None:
            return Ask.Result(failure=failure)
        return Ask.Result(
            header=message.header,
            answer=reply.text,
            probabilities=list(reply.choices.values()),
            log_probability=reply.log_probability,
            truncated=reply.truncated,
            tokens=reply.tokens,
            timings=Timings(**vars(reply.timings)),
            seen=[Region(**vars(part)) for part in reply.seen],
        )

    async def _answered(self, goal: Any, feedback: Any, form: Text | Choice | Json | None) -> tuple[str, Any, Any, str]:
        """The camera, the frame's message, what came of it, or why nothing did; the goal has its end then."""
        pipeline, asked = self._asked.pipeline, goal.request
        if pipeline is None:  # deactivated between the goal's acceptance and now
            goal.abort()
            return "", None, None, "the node is not active any more"
        camera = asked.camera or next(iter(self._asked.cameras))
        waiting = _Waiting(goal, self._node.executor, feedback)
        image = asked.image[0] if asked.image else None
        request = Request(camera, image, asked.question, waiting.should_continue, waiting.answer, answer=form)
        self._waiting.append((waiting, request))
        self._watch.reset()
        pipeline.ask(request)
        message, result, failure = await waiting.answered
        if goal.is_cancel_requested:
            goal.canceled()
        elif result is None:
            goal.abort()
        else:
            goal.succeed()
        return camera, message, result, failure

    def _answer_the_late(self) -> None:
        """Answer goals whose time is up, whatever the pipeline is doing: another frame, or a pause for memory or heat.

        One whose answer is being written is cut by the pipeline, which takes a token's time, and has that.
        """
        for waiting, request in self._waiting:
            if waiting.late_s() >= (_CUT_WITHIN_S if request.began else 0.0):
                waiting.answer(None, None, "the inspection did not end in time" if request.began else lateness(request))
        self._waiting = [(waiting, request) for waiting, request in self._waiting if not waiting.is_answered]
        if not self._waiting:
            self._watch.cancel()

    def _set_prompt(self, request: Any, response: Any) -> Any:
        (outcome,) = self._node.set_parameters([Parameter("question", value=request.question)])
        response.accepted, response.reason = outcome.successful, outcome.reason
        return response

    def _get_memory_plan(self, request: Any, response: Any) -> Any:
        memory_plan = self._asked.memory_plan
        response.is_open = memory_plan is not None
        if memory_plan is not None:
            response.items = [
                MemoryPlanItem(
                    name=item.name,
                    planned_bytes=item.planned_bytes,
                    measured_bytes=-1 if item.measured_bytes is None else item.measured_bytes,
                )
                for item in memory_plan.items
            ]
            response.planned_bytes, response.measured_bytes = memory_plan.planned_bytes, memory_plan.measured_bytes
            response.budget_bytes = memory_plan.budget_bytes or 0
        return response


def _form_of(asked: Any) -> Text | Choice | Json:
    """In which form a goal of Ask is to be answered.

    Raises:
        ValueError: it asks for two forms, or its JSON schema is none.
    """
    if asked.choices and asked.json_schema:
        raise ValueError("choices and json_schema are two forms of an answer; give one")
    if asked.choices:
        return Choice(tuple(asked.choices))
    if not asked.json_schema:
        return Text(asked.max_tokens or Text.max_tokens)
    try:
        schema = json.loads(asked.json_schema)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"json_schema is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"json_schema is {type(schema).__name__}; expected an object")
    return Json(schema, asked.max_tokens or Json.max_tokens)
