"""What can be asked of the node: an inspection, another prompt, the memory plan; passes it on, and inspects nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from inspection_msgs.action import Inspect
from inspection_msgs.msg import InspectionReport as InspectionReportMessage
from inspection_msgs.msg import MemoryPlanItem
from inspection_msgs.srv import GetMemoryPlan, SetPrompt
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from edge_runtime.memory.plan import MemoryPlan
from edge_runtime.reports.report import InspectionReport
from edge_runtime.stream.loop import within
from inspection_ros.pipeline import Pipeline
from inspection_ros.pipeline_types import Request

# Of a message and its report: the report message with its header, to be sent as an answer.
Answering = Callable[[str, str, Any, InspectionReport], InspectionReportMessage]


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

    def close(self) -> None:
        """Take the action down; the services go with the node."""
        self._actions.destroy()

    def _consider(self, goal: Any) -> GoalResponse:
        reason = ""
        if self._asked.pipeline is None:
            reason = "the node is not active"
        elif goal.camera and goal.camera not in self._asked.cameras:
            reason = f"there is no camera {goal.camera!r}; name one of {', '.join(self._asked.cameras)}"
        elif not math.isfinite(goal.deadline_s) or goal.deadline_s < 0:
            reason = f"deadline_s is {goal.deadline_s}; give seconds, or 0 for none"
        if reason:
            self._node.get_logger().warning(f"a goal was turned away: {reason}")
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    async def _inspect(self, goal: Any) -> Any:
        pipeline, asked = self._asked.pipeline, goal.request
        camera = asked.camera or next(iter(self._asked.cameras))
        in_time = within(asked.deadline_s or None)
        answered = Future(executor=self._node.executor)

        def should_continue(written: str) -> bool:
            if written:
                goal.publish_feedback(Inspect.Feedback(text=written))
            return in_time(written) and not goal.is_cancel_requested

        def done(message: Any, report: InspectionReport | None, failure: str) -> None:
            answered.set_result((message, report, failure))
            self._node.executor.wake()

        if pipeline is None:  # deactivated between the goal's acceptance and now
            goal.abort()
            return Inspect.Result(failure="the node is not active any more")
        image = asked.image[0] if asked.image else None
        pipeline.ask(Request(camera, image, asked.question, should_continue, done))
        message, report, failure = await answered
        result = Inspect.Result(failure=failure)
        if report is not None:
            result.report = self._answer(camera, asked.question, message, report)
        if goal.is_cancel_requested:
            goal.canceled()
        elif report is None:
            goal.abort()
        else:
            goal.succeed()
        return result

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
