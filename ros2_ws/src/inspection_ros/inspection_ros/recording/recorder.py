"""The flight recorder: reports, failures, diagnostics and annotated frames into an MCAP file; inspects nothing.

ros2 run inspection_ros recorder --ros-args -p folder:=/data/flights -p pictures_hz:=1.0
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from inspection_msgs.msg import FrameFailure, InspectionReport, ReportSchema
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from edge_runtime.errors import FlightLogError
from edge_runtime.ros.messages import fill_compressed, frame_from_image
from inspection_ros.publishers import SCHEMA_QOS
from inspection_ros.recording.definitions import definition_of
from inspection_ros.recording.mcap_file import McapFile
from inspection_ros.spin import run_node
from inspection_ros.subscriptions import camera_qos

SYNC_PERIOD_S = 0.5  # what a power cut may cost, and what the disk needs again

# Reliable and deep: while the disk is busy, nothing that was acknowledged may be lost.
RECORD_QOS = QoSProfile(depth=100)


class FlightRecorder(Node):
    """Records from its first message on, into ``folder/flight-DATE-TIME.mcap``; must be closed."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("flight_recorder", **node_options)
        self.declare_parameter(
            "folder", "flights", ParameterDescriptor(description="Where recordings go.", read_only=True)
        )
        self.declare_parameter(
            "pictures_hz",
            1.0,
            ParameterDescriptor(
                description="Annotated frames a second that are kept, at most; 0 for none.",
                floating_point_range=[FloatingPointRange(from_value=0.0, to_value=60.0)],
                read_only=True,
            ),
        )
        started = datetime.now(timezone.utc)
        self.path = Path(self._value("folder")) / f"flight-{started:%Y%m%d-%H%M%S-%f}.mcap"
        self.failure: FlightLogError | None = None
        self._file = McapFile(self.path, definition_of)
        self._last_picture_s = float("-inf")
        self._hear_raw(InspectionReport, "inspection/reports", "inspection_msgs/msg/InspectionReport")
        self._hear_raw(ReportSchema, "inspection/schema", "inspection_msgs/msg/ReportSchema", SCHEMA_QOS)
        self._hear_raw(FrameFailure, "inspection/failures", "inspection_msgs/msg/FrameFailure")
        self._hear_raw(DiagnosticArray, "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        if self._value("pictures_hz"):
            self.create_subscription(Image, "inspection/annotated", self._keep_picture, camera_qos())
        self.create_timer(SYNC_PERIOD_S, self._sync)
        self.get_logger().info(f"recording into {self.path}")

    def close(self) -> None:
        """Finish the file, unless writing to it has failed."""
        if self.failure is None:
            self._file.close()

    def _hear_raw(self, message_type: Any, topic: str, type_name: str, qos: QoSProfile = RECORD_QOS) -> None:
        name = self.resolve_topic_name(topic)
        self.create_subscription(
            message_type, topic, lambda data: self._write(name, type_name, bytes(data)), qos, raw=True
        )

    def _keep_picture(self, message: Image) -> None:
        now_s = time.monotonic()
        if now_s - self._last_picture_s < 1 / self._value("pictures_hz"):
            return
        self._last_picture_s = now_s
        picture = CompressedImage(header=message.header)
        fill_compressed(picture, frame_from_image(message), quality=80)
        topic = self.resolve_topic_name("inspection/annotated/compressed")
        self._write(topic, "sensor_msgs/msg/CompressedImage", serialize_message(picture))

    def _write(self, topic: str, type_name: str, data: bytes) -> None:
        self._guarded(self._file.write, topic, type_name, data, self.get_clock().now().nanoseconds)

    def _sync(self) -> None:
        self._guarded(self._file.sync)

    def _guarded(self, action: Any, *arguments: Any) -> None:
        if self.failure is None:
            try:
                action(*arguments)
            except FlightLogError as error:
                self.failure = error
                self.get_logger().fatal(str(error))

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def main(args: list[str] | None = None) -> None:
    """Record until Ctrl-C; exit code 1 where the disk refuses, for whoever supervises to try again."""
    try:
        recorder = run_node(
            "flight_recorder",
            FlightRecorder,
            args,
            done=lambda node: node.failure is not None,
            release=FlightRecorder.close,
        )
    except FlightLogError as error:
        sys.exit(f"flight_recorder: {error}")
    if recorder.failure is not None:
        sys.exit(f"flight_recorder: {recorder.failure}")


if __name__ == "__main__":
    main()
