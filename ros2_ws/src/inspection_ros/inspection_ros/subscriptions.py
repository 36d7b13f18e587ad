"""What the node hears while it is active: cameras, and where they are; hands frames over and keeps the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix

from edge_runtime.ros.messages import Frame, frame_from_compressed, frame_from_image, nanoseconds
from inspection_ros.stamped_buffer import StampedBuffer

# By the parameter `image_transport`: message type, and what a camera's topic ends with.
_TRANSPORTS: dict[str, tuple[Any, str]] = {"raw": (Image, ""), "compressed": (CompressedImage, "/compressed")}
_TO_FRAME: dict[Any, Callable[[Any], Frame]] = {Image: frame_from_image, CompressedImage: frame_from_compressed}


def camera_qos() -> QoSProfile:
    """A camera's frames are worth nothing once a newer one is there: depth 1, and no retransmission of lost ones.

    A new object each time, because rclpy writes overrides into the one it is given.
    """
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def frame_from_message(message: Any) -> Frame:
    """The picture in a raw or compressed image; raises FrameError where there is none."""
    return _TO_FRAME[type(message)](message)


class Subscriptions:
    """Subscribes at once, and gives every camera's messages to ``offer(camera, message)``; must be closed.

    Each subscription takes the parameters ``qos_overrides./TOPIC.subscription.*``.
    """

    def __init__(self, node: Node, transport: str, cameras: Sequence[str], offer: Callable[[str, Any], None]) -> None:
        self._node = node
        self._subscriptions: list[Any] = []
        self._infos: dict[str, Any] = {}
        self._poses: StampedBuffer[Any] = StampedBuffer()
        self._positions: StampedBuffer[Any] = StampedBuffer()
        message_type, suffix = _TRANSPORTS[transport]
        places = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        try:
            for camera in cameras:
                self._hear(message_type, camera + suffix, partial(offer, camera), camera_qos())
                heard = node.resolve_topic_name(camera + suffix).removesuffix(suffix)  # as remapped: its info is there
                info = heard.rpartition("/")[0] + "/camera_info"
                self._hear(CameraInfo, info, partial(self._infos.__setitem__, camera), camera_qos())
            self._hear(PoseStamped, "pose", self._poses.hear, places)
            self._hear(NavSatFix, "fix", self._positions.hear, places)
        except BaseException:
            self.close()
            raise

    def _hear(self, message_type: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> None:
        overrides = QoSOverridingOptions.with_default_policies()
        self._subscriptions.append(
            self._node.create_subscription(message_type, topic, callback, qos, qos_overriding_options=overrides)
        )

    def locate(self, report: Any, camera: str) -> None:
        """Put into a report's message where its frame was taken, as far as that was heard; its header is there."""
        stamp_ns = nanoseconds(report.header.stamp)
        report.pose, report.position = self._poses.at(stamp_ns), self._positions.at(stamp_ns)
        report.camera_info = [self._infos[camera]] if camera in self._infos else []

    def close(self) -> None:
        """Hear nothing more; what was heard can still be asked for."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
