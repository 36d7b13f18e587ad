"""The audience of one flight: hears what is seen, found and lost, and moves the node through its states; no files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from inspection_msgs.msg import FrameFailure, InspectionReport
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from edge_runtime.errors import BackendError
from edge_runtime.reports.schema import ReportSchema
from edge_runtime.ros.diagnostic_values import counters_from_values
from edge_runtime.ros.messages import Frame, frame_from_image, nanoseconds, report_from_message

_SPIN_S = 0.1
_AUDIENCE_QOS = QoSProfile(depth=50)  # reliable: the audience is slow now and then, and wants every message


class GroundStation:
    """Calls ``on_frame(stamp_ns, frame)``, and ``on_report(stamp_ns, message, report)`` or ``on_failure(stamp_ns,
    message)`` for what became of it, in the words of ``schema``; must be closed.
    """

    def __init__(
        self,
        on_frame: Callable[[int, Frame], None],
        on_report: Callable[[int, InspectionReport, Any], None],
        on_failure: Callable[[int, FrameFailure], None],
        schema: ReportSchema,
    ) -> None:
        self._schema = schema
        self._on_frame = on_frame
        self._on_report = on_report
        self._on_failure = on_failure
        self._health: dict[str, str] = {}
        self._node = rclpy.create_node("ground_station")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(Image, "image", self._hear_frame, _AUDIENCE_QOS)
        self._node.create_subscription(InspectionReport, "inspection/reports", self._hear_report, _AUDIENCE_QOS)
        self._node.create_subscription(FrameFailure, "inspection/failures", self._hear_failure, _AUDIENCE_QOS)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear_health, _AUDIENCE_QOS)
        self._change = self._node.create_client(ChangeState, "inspection/change_state")

    @property
    def health(self) -> dict[str, str]:
        """The values of the node's latest diagnostics."""
        return self._health

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Listen until ``condition``; False where it does not come in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self._executor.spin_once(timeout_sec=_SPIN_S)
        return True

    def change_state(self, transition_id: int, timeout_s: float, is_running: Callable[[], bool]) -> None:
        """Move the node through one transition, waiting for it to appear where it is still starting.

        Raises:
            BackendError: the node ended, did not answer in time, or could not make the transition.
        """
        self.wait_until(lambda: self._change.service_is_ready() or not is_running(), timeout_s)
        answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition_id)))
        answered = self.wait_until(lambda: answer.done() or not is_running(), timeout_s)
        if not is_running():
            raise BackendError("the inspection node has ended; its log above says why")
        if not answered:
            raise BackendError(f"the inspection node did not answer within {timeout_s:.0f} s")
        if not answer.result().success:
            raise BackendError("the inspection node refused to change its state; its log above says why")

    def wait_for_the_last_report(
        self, heard: Callable[[], int], timeout_s: float, is_running: Callable[[], bool]
    ) -> bool:
        """Listen until fresh diagnostics account for every frame and ``heard()`` reports have come of those made."""
        self._health = {}

        def complete() -> bool:
            counters = counters_from_values(self._health)
            if counters is None or not is_running():
                return not is_running()
            done = counters.reported + counters.skipped + counters.dropped + counters.failed
            return done == counters.received and heard() >= counters.reported

        return self.wait_until(complete, timeout_s)

    def close(self) -> None:
        """Leave every topic."""
        self._node.destroy_node()

    def _hear_frame(self, message: Image) -> None:
        self._on_frame(nanoseconds(message.header.stamp), frame_from_image(message))

    def _hear_report(self, message: InspectionReport) -> None:
        self._on_report(nanoseconds(message.header.stamp), message, report_from_message(message, self._schema))

    def _hear_failure(self, message: FrameFailure) -> None:
        self._on_failure(nanoseconds(message.header.stamp), message)

    def _hear_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self._node.resolve_topic_name('inspection')}: inspection":  # none of another drone
                self._health = {pair.key: pair.value for pair in status.values}
