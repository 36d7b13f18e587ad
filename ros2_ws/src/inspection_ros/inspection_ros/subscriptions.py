"""What the node hears while it is active: cameras, and where they are; hands frames over and keeps the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix

from edge_runtime.ros.messages import Frame, frame_from_compressed, frame_from_image, nanoseconds
from edge_runtime.vision.image_decoding import DecodingRules
from inspection_ros.parameter_overrides import is_overridden
from inspection_ros.stamped_buffer import NEAR_S, StampedBuffer

# By the parameter `image_transport`: message type, and what a camera's topic ends with.
_TRANSPORTS: dict[str, tuple[Any, str]] = {"raw": (Image, ""), "compressed": (CompressedImage, "/compressed")}
_TO_FRAME: dict[Any, Callable[[Any, DecodingRules], Frame]] = {
    Image: frame_from_image,
    CompressedImage: frame_from_compressed,
}
_TYPE_NAMES: dict[Any, str] = {
    Image: "sensor_msgs/msg/Image",
    CompressedImage: "sensor_msgs/msg/CompressedImage",
    CameraInfo: "sensor_msgs/msg/CameraInfo",
    PoseStamped: "geometry_msgs/msg/PoseStamped",
    NavSatFix: "sensor_msgs/msg/NavSatFix",
}


def camera_qos() -> QoSProfile:
    """A camera's frames are worth nothing once a newer one is there: depth 1, and no retransmission of lost ones.

    A new object each time, because rclpy writes overrides into the one it is given.
    """
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def _places_qos() -> QoSProfile:
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def count_lost(lose: Callable[[int], None]) -> Any:
    """Callbacks of a subscription that tell how many messages were lost."""
    try:
        events = import_module("rclpy.event_handler")
    except ImportError:  # Humble
        events = import_module("rclpy.qos_event")
    return events.SubscriptionEventCallbacks(message_lost=lambda status: lose(status.total_count_change))


def frame_from_message(message: Any, rules: DecodingRules) -> Frame:
    """The picture in a raw or compressed image; raises FrameError where there is none, or ``rules`` refuse it."""
    return _TO_FRAME[type(message)](message, rules)


class _Topic:
    """One topic that is heard, and who publishes it."""

    def __init__(self, node: Node, message_type: Any, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self._node = node
        self._message_type = message_type
        self._topic = topic
        self._callback = callback
        self._qos = qos  # makes a profile
        self.name = node.resolve_topic_name(topic)
        self.lost = 0  # messages that the middleware gave up on
        self._follows = not is_overridden(node, f"qos_overrides.{self.name}.subscription.reliability")
        self._reliability = ReliabilityPolicy.BEST_EFFORT
        self._subscription: Any = None

    def open(self, follows: bool) -> None:
        """Subscribe; reliably where it ``follows`` publishers that all are, and nobody said otherwise."""
        self._follows = self._follows and follows
        self._reliability = self._offered()
        self._subscribe()

    def follow(self) -> None:
        """Subscribe anew where those who publish offer something else now."""
        if (offered := self._offered()) != self._reliability:
            self._node.destroy_subscription(self._subscription)
            self._reliability = offered
            self._subscribe()
            self._node.get_logger().info(f"hears {self.name} as it is offered: {offered.name.lower()}")

    def close(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def silence(self) -> str:
        """Why nothing may be heard."""
        publishers = self._node.get_publishers_info_by_topic(self.name)
        wanted = _TYPE_NAMES[self._message_type]
        types = sorted({info.topic_type for info in publishers} - {wanted})
        if not publishers:
            return f"nobody publishes {self.name}"
        if types:
            return f"{self.name} is published as {', '.join(types)}, and {wanted} is wanted"
        if self._wants_reliable() and not all(map(_is_reliable, publishers)):
            return f"{self.name} is published best effort, and reliable is asked for; leave the override out"
        return f"{self.name} is published, and nothing comes"

    def _wants_reliable(self) -> bool:
        return bool(self._subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE)

    def _offered(self) -> ReliabilityPolicy:
        publishers = self._node.get_publishers_info_by_topic(self.name) if self._follows else []
        if not publishers:
            return self._reliability
        return ReliabilityPolicy.RELIABLE if all(map(_is_reliable, publishers)) else ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self) -> None:
        qos = self._qos()
        if self._follows:  # rclpy would go on with what it declared at first
            qos.reliability = self._reliability
            overrides = QoSOverridingOptions([QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH])
        else:
            overrides = QoSOverridingOptions.with_default_policies()
        self._subscription = self._node.create_subscription(
            self._message_type,
            self._topic,
            self._callback,
            qos,
            qos_overriding_options=overrides,
            event_callbacks=count_lost(self._lose),
        )

    def _lose(self, count: int) -> None:
        self.lost += count


def _is_reliable(info: Any) -> bool:
    return bool(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE)


class Subscriptions:
    """Subscribes at once, and gives every camera's messages to ``offer(camera, message)``; must be closed.

    Each subscription takes the parameters ``qos_overrides./TOPIC.subscription.*``. Cameras are heard reliably where
    all who publish them are reliable: best effort loses most of what is larger than a packet, and nobody counts it.
    """

    def __init__(self, node: Node, transport: str, cameras: Sequence[str], offer: Callable[[str, Any], None]) -> None:
        self._node = node
        self._cameras: dict[str, _Topic] = {}
        self._places: dict[str, tuple[_Topic, StampedBuffer[Any]]] = {}
        self._infos: dict[str, Any] = {}
        self._info_topics: list[_Topic] = []
        self._poses: StampedBuffer[Any] = StampedBuffer()
        self._positions: StampedBuffer[Any] = StampedBuffer()
        message_type, suffix = _TRANSPORTS[transport]
        try:
            for camera in cameras:
                topic = _Topic(node, message_type, camera + suffix, partial(offer, camera), camera_qos)
                self._cameras[camera] = topic
                topic.open(follows=True)
                info = topic.name.removesuffix(suffix).rpartition("/")[0] + "/camera_info"  # beside it, as remapped
                keep = partial(self._infos.__setitem__, camera)
                self._info_topics.append(_Topic(node, CameraInfo, info, keep, camera_qos))
                self._info_topics[-1].open(follows=False)
            for name, place_type, heard in (("pose", PoseStamped, self._poses), ("fix", NavSatFix, self._positions)):
                self._places[name] = _Topic(node, place_type, name, heard.hear, _places_qos), heard
                self._places[name][0].open(follows=False)
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """Frames that the middleware gave up on, of all cameras, since activation."""
        return sum(topic.lost for topic in self._cameras.values())

    def follow(self) -> None:
        """Hear cameras as they are offered now."""
        for topic in self._cameras.values():
            topic.follow()

    def silence(self) -> str:
        """Why no frame may come."""
        return "; ".join(topic.silence() for topic in self._cameras.values())

    def places(self) -> dict[str, str]:
        """How well pose and position are known, in words."""
        return {name: self._place(topic, heard)[0] for name, (topic, heard) in self._places.items()}

    def doubts(self) -> tuple[str, ...]:
        """What is wrong with pose and position, although somebody publishes them."""
        placed = (self._place(topic, heard) for topic, heard in self._places.values())
        return tuple(words for words, is_wrong in placed if is_wrong)

    def _place(self, topic: _Topic, heard: StampedBuffer[Any]) -> tuple[str, bool]:
        if not heard.is_used:
            silence = topic.silence()
            return silence, not silence.startswith("nobody")
        if heard.off_s is not None and heard.off_s > NEAR_S:
            return f"{topic.name} is stamped {heard.off_s:.1f} s off the frames; compare the clocks", True
        return f"{topic.name} is heard", False

    def locate(self, report: Any, camera: str) -> None:
        """Put into a report's message where its frame was taken, as far as that was heard; its header is there."""
        stamp_ns = nanoseconds(report.header.stamp)
        report.pose, report.position = self._poses.at(stamp_ns), self._positions.at(stamp_ns)
        report.camera_info = [self._infos[camera]] if camera in self._infos else []

    def close(self) -> None:
        """Hear nothing more; what was heard can still be asked for."""
        for topic in (*self._cameras.values(), *self._info_topics, *(topic for topic, _ in self._places.values())):
            topic.close()
