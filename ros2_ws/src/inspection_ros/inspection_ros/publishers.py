"""What the node says: reports, failures, annotated frames, diagnostics; makes messages of them, and decides nothing."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import inspection_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from inspection_msgs.msg import FrameFailure
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from edge_runtime.reports.annotate import draw_report
from edge_runtime.reports.report import InspectionReport
from edge_runtime.reports.schema import ReportSchema
from edge_runtime.ros.messages import (
    fill_compressed,
    fill_image,
    message_from_report,
    message_from_schema,
    nanoseconds,
)
from edge_runtime.stream.loop import Failed, Inspected
from inspection_ros.health import Health

_JPEG_QUALITY = 80
_FILL: dict[Any, Callable[[Any, Any], None]] = {
    Image: fill_image,
    CompressedImage: partial(fill_compressed, quality=_JPEG_QUALITY),
}
# Reliable, as reports are few and none should be lost; deeper, 10 of them wait for a subscriber that is slow.
REPORT_DEPTH = 10
SCHEMA_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # whoever comes late is told, too


class Publishers:
    """Has topics from :meth:`open` to :meth:`close`, and is heard while the node is active.

    ``locate(message, camera)`` puts into a report's message where its frame was taken. Its topics take
    the parameters ``qos_overrides./TOPIC.publisher.*``.
    """

    def __init__(self, node: LifecycleNode, locate: Callable[[Any, str], None]) -> None:
        self._node = node
        self._locate = locate
        self._clock = Clock(clock_type=ClockType.SYSTEM_TIME)  # simulated time may stand still between two flights
        self._activated = self._clock.now().to_msg()
        self.frame_age_s = 0.0  # of the latest report's frame, when that was published
        self._publishers: dict[Any, Any] = {}  # by the type of their messages

    def open(self) -> None:
        """Take the topics up."""
        for message_type, topic, qos in (
            (inspection_msgs.msg.InspectionReport, "inspection/reports", QoSProfile(depth=REPORT_DEPTH)),
            (inspection_msgs.msg.ReportSchema, "inspection/schema", SCHEMA_QOS),
            (FrameFailure, "inspection/failures", QoSProfile(depth=REPORT_DEPTH)),
            (Image, "inspection/annotated", QoSProfile(depth=1)),
            (CompressedImage, "inspection/annotated/compressed", QoSProfile(depth=1)),
        ):
            self._publishers[message_type] = self._node.create_lifecycle_publisher(
                message_type, topic, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
            )

    @property
    def activated_ns(self) -> int:
        """Which flight this is: what its reports say of when it began."""
        return nanoseconds(self._activated)

    def begin_flight(self, schema: ReportSchema) -> None:
        """From now on, what is said belongs to another flight, whose reports are in the words of ``schema``."""
        self._activated = self._clock.now().to_msg()
        message = message_from_schema(schema, inspection_msgs.msg)
        message.activated = self._activated
        self._say(message)

    def message_of(self, camera: str, question: str, message: Any, report: InspectionReport) -> Any:
        """The report of a camera's message, with the frame's header, its age and where it was taken."""
        answer = message_from_report(report, inspection_msgs.msg)
        answer.header, answer.activated = message.header, self._activated
        answer.camera, answer.question = camera, question
        answer.frame_age_s = (self._node.get_clock().now().nanoseconds - nanoseconds(message.header.stamp)) / 1e9
        self._locate(answer, camera)
        return answer

    def report(self, inspected: Inspected[Any]) -> None:
        """Publish a report with its counters, and its frame with the findings, if someone looks."""
        report = self.message_of(inspected.camera, inspected.question, inspected.message, inspected.report)
        report.frame_index = inspected.index
        for name in ("received", "skipped", "dropped", "failed"):
            setattr(report, f"frames_{name}", getattr(inspected.counters, name))
        self._say(report)
        self.frame_age_s = report.frame_age_s
        watched = [kind for kind in (Image, CompressedImage) if self._publishers[kind].get_subscription_count()]
        drawn = draw_report(inspected.frame, inspected.report) if watched else None
        for kind in watched:
            picture = kind(header=report.header)
            _FILL[kind](picture, drawn)
            self._say(picture)

    def failure(self, failed: Failed[Any]) -> None:
        """Publish why there is no report of a frame."""
        self._say(
            FrameFailure(
                header=failed.message.header,
                activated=self._activated,
                camera=failed.camera,
                frame_index=failed.index,
                reason=failed.reason,
            )
        )

    def close(self) -> None:
        """Leave every topic; does nothing where there is none."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.popitem()[1])

    def _say(self, message: Any) -> None:
        self._publishers[type(message)].publish(message)


def diagnostics_of(node: Node, health: Health, bundle: str, activated_ns: int) -> DiagnosticArray:
    """The health of the node as /diagnostics carries it, stamped now."""
    values = {"bundle": bundle, "activated": str(activated_ns), **health.values}
    status = DiagnosticStatus(
        level=bytes([health.level]),
        hardware_id=platform.node(),
        name=f"{node.get_fully_qualified_name()}: inspection",
        message=health.message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = node.get_clock().now().to_msg()
    return message
