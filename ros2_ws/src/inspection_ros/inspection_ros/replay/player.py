"""A camera made of files: publishes a playlist at a rate, stamped as a driver would; inspects nothing.

ros2 run inspection_ros player --ros-args -p source:=photos -p rate_hz:=2.0 -p loop:=true
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.ros.messages import Frame, fill_compressed, fill_image
from inspection_ros.replay.playlist import open_playlist
from inspection_ros.settings import check_transport
from inspection_ros.spin import run_node

# Reliable, as camera drivers are by default: an inspector that asks for best effort gets it, a recorder loses nothing.
PLAYER_QOS = QoSProfile(depth=5)
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 0.01, 240.0
LINGER_S = 1.0  # the last frame is still on its way when there is nothing more to publish


class CameraPlayer(Node):
    """Publishes ``image`` or ``image/compressed`` from a playlist, then is ``done``."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("camera_player", **node_options)
        self._declare_parameters()
        self._message_type, topic, self._fill = self._transport()
        self._publisher = self.create_publisher(self._message_type, topic, PLAYER_QOS)
        self._playlist = open_playlist(str(self._value("source")), self._value("max_frames"), self._value("loop"))
        self._ended_s: float | None = None
        self.failure: EdgeRuntimeError | None = None
        self._upcoming = self._next_frame()  # one ahead, so that a slow read does not delay a frame that is due
        self.create_timer(1.0 / self._value("rate_hz"), self._publish_next)

    def _transport(self) -> tuple[Any, str, Callable[[Any, Frame], None]]:
        name = self._value("image_transport")
        try:
            check_transport(name)
        except ValueError as error:
            raise InvalidParameterValueException("image_transport", name, str(error)) from error
        if name == "compressed":
            return CompressedImage, "image/compressed", partial(fill_compressed, quality=self._value("jpeg_quality"))
        return Image, "image", fill_image

    def _declare_parameters(self) -> None:
        def declare(name: str, default: Any, description: str, read_only: bool = True, **limits: Any) -> None:
            descriptor = ParameterDescriptor(description=description, read_only=read_only, **limits)
            self.declare_parameter(name, default, descriptor)

        source = "Folder of images, video file, ROS bag, camera number, or rendered:SEED."
        declare("source", "rendered:1", source, dynamic_typing=True)  # a number is a camera's
        declare(
            "rate_hz",
            5.0,
            "Frames a second.",
            floating_point_range=[FloatingPointRange(from_value=LOWEST_RATE_HZ, to_value=HIGHEST_RATE_HZ)],
        )
        declare("loop", False, "Begin again at the end.")
        declare("max_frames", 0, "Stop after so many frames; 0 for all.", integer_range=_at_least_0())
        declare("image_transport", "raw", "raw publishes image, compressed publishes image/compressed.")
        declare(
            "jpeg_quality",
            90,
            "Of compressed frames.",
            integer_range=[IntegerRange(from_value=1, to_value=100, step=1)],
        )
        declare("frame_id", "camera", "Coordinate frame in every header.", read_only=False)
        declare("wait_for_subscribers", 0, "Publish nothing before so many are connected.", integer_range=_at_least_0())

    @property
    def done(self) -> bool:
        """Whether the last frame has been published, and has had time to arrive."""
        return self._ended_s is not None and time.monotonic() - self._ended_s > LINGER_S

    def _publish_next(self) -> None:
        if self._upcoming is None:
            self._ended_s = self._ended_s or time.monotonic()
            return
        if self._publisher.get_subscription_count() < self._value("wait_for_subscribers"):
            return
        message = self._message_type()
        self._fill(message, self._upcoming)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._value("frame_id")
        self._publisher.publish(message)
        self._upcoming = self._next_frame()

    def _next_frame(self) -> Frame | None:
        try:
            return next(self._playlist, None)
        except EdgeRuntimeError as error:
            self.failure = error
            return None

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def _at_least_0() -> list[IntegerRange]:
    return [IntegerRange(from_value=0, to_value=2**31 - 1, step=1)]


def main(args: list[str] | None = None) -> None:
    """Play until the end or Ctrl-C; exit code 1 where the source fails."""
    player = run_node("camera_player", CameraPlayer, args, done=lambda node: node.done)
    if player.failure is not None:
        sys.exit(f"camera_player: {player.failure}")


if __name__ == "__main__":
    main()
