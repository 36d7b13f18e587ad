"""What the node says: reports, annotated frames, diagnostics; puts them into messages, and decides nothing."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from inspection_msgs.msg import InspectionReport
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from edge_runtime.annotate import draw_report
from edge_runtime.messages import fill_image
from inspection_ros.health import Health
from inspection_ros.hearing import camera_qos
from inspection_ros.traffic import Inspected

REPORT_QOS = QoSProfile(depth=10)  # reports are small and few, and none should be lost


class Voice:
    """Publishes from activation to deactivation; must be closed."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._reports = node.create_lifecycle_publisher(InspectionReport, "inspection/reports", REPORT_QOS)
        self._annotated = node.create_lifecycle_publisher(Image, "inspection/annotated", camera_qos())

    def report(self, report: Any, inspected: Inspected[Any]) -> None:
        """Publish the message of a report with its counters, and its frame with the findings, if someone looks."""
        report.frame_index = inspected.index
        for name in ("received", "skipped", "dropped", "failed"):
            setattr(report, f"frames_{name}", getattr(inspected.counters, name))
        self._reports.publish(report)
        if self._annotated.get_subscription_count():
            picture = Image(header=report.header)
            fill_image(picture, draw_report(inspected.frame, inspected.report))
            self._annotated.publish(picture)

    def close(self) -> None:
        """Leave both topics."""
        for publisher in (self._reports, self._annotated):
            self._node.destroy_lifecycle_publisher(publisher)


def diagnostics_of(node: Node, health: Health, bundle: str) -> DiagnosticArray:
    """The health of the node as /diagnostics carries it, stamped now."""
    values = {"bundle": bundle, **health.values}
    status = DiagnosticStatus(
        level=bytes([health.level]),
        name=f"{node.get_fully_qualified_name()}: inspection",
        message=health.message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = node.get_clock().now().to_msg()
    return message
