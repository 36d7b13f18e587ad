"""The other side of the topics: a camera, a lifecycle manager and an audience for the node under test."""

from __future__ import annotations

import gc
import threading
import time
from types import SimpleNamespace

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from inspection_msgs.msg import InspectionReport
from inspection_ros.convert import fill_image
from inspection_ros.node import InspectionNode, camera_qos
from inspection_ros.running import spin
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

WAIT_S = 60.0  # a limit, not a pace: on a busy machine four processes take 20 s to start
FRAME = np.full((48, 64, 3), 127, np.uint8)


class Rig:
    """Runs the node in a thread, as its own process would, and talks to it through topics and services only."""

    def __init__(self):
        self.reports = []
        self.annotated = []
        self.health = None
        self._client = rclpy.create_node("rig")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._client)
        self._client.create_subscription(InspectionReport, "inspection/reports", self.reports.append, 10)
        self._client.create_subscription(DiagnosticArray, "/diagnostics", self._keep_health, 10)
        self._cameras = {
            "image": self._client.create_publisher(Image, "image", 5),
            "image/compressed": self._client.create_publisher(CompressedImage, "image/compressed", 5),
        }
        self._change = self._client.create_client(ChangeState, "inspection/change_state")
        self._state = self._client.create_client(GetState, "inspection/get_state")
        self._node = None
        self._thread = None
        self._done = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._done.set()
        if self._thread is not None:
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive(), "the node's thread did not end"
            self._node.release()
            self._node.destroy_node()
            self._node = None
            gc.collect()  # until then rclpy keeps the node's lifecycle services, and they would be asked
        self._client.destroy_node()

    def start_node(self, open_inspector, **parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self._node = InspectionNode(open_inspector, parameter_overrides=overrides)
        self._thread = threading.Thread(target=spin, args=(self._node, lambda node: self._done.is_set()), daemon=True)
        self._thread.start()

    @property
    def others(self):
        """Names of the nodes on the network beside this one."""
        return [name for name in self._client.get_node_names() if name != self._client.get_name()]

    @property
    def camera_reliability(self):
        """How the node subscribes to the camera."""
        (subscription,) = self._client.get_subscriptions_info_by_topic("image")
        return subscription.qos_profile.reliability.name

    def set_parameter(self, name, value):
        self._node.set_parameters([Parameter(name, value=value)])

    def wait_until(self, condition, timeout_s=WAIT_S):
        """Serve the client's topics until ``condition``; fails the test where it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain"
            self._executor.spin_once(timeout_sec=0.05)

    def change(self, transition_id, timeout_s=WAIT_S):
        """Ask for a transition; whether it succeeded."""
        self.wait_until(self._change.service_is_ready)
        answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition_id)))
        self.wait_until(answer.done, timeout_s)
        return answer.result().success

    def configure(self):
        return self.change(Transition.TRANSITION_CONFIGURE)

    def activate(self):
        """Activate, and wait until the camera and the audience are connected."""
        topic = self._node.get_parameter("image_transport").value
        camera = self._cameras["image/compressed" if topic == "compressed" else "image"]
        done = self.change(Transition.TRANSITION_ACTIVATE)
        self.wait_until(lambda: camera.get_subscription_count() > 0)
        self.wait_until(lambda: self._client.count_publishers("inspection/reports") > 0)
        return done

    def fly(self, open_inspector, **parameters):
        """Start, configure and activate."""
        self.start_node(open_inspector, **parameters)
        assert self.configure()
        assert self.activate()

    @property
    def state(self):
        self.wait_until(self._state.service_is_ready)
        answer = self._state.call_async(GetState.Request())
        self.wait_until(answer.done)
        return answer.result().current_state.label

    def publish_frame(self, stamp=(0, 0), frame_id="camera", frame=FRAME, **broken_fields):
        message = Image(header=Header(stamp=Time(sec=stamp[0], nanosec=stamp[1]), frame_id=frame_id))
        fill_image(message, frame)
        for name, value in broken_fields.items():
            setattr(message, name, value)
        self._cameras["image"].publish(message)

    def publish_compressed(self, data):
        self._cameras["image/compressed"].publish(CompressedImage(format="jpeg", data=data))

    def watch_annotated(self):
        self._client.create_subscription(Image, "inspection/annotated", self.annotated.append, camera_qos())
        self.wait_until(lambda: self._client.count_publishers("inspection/annotated") > 0)

    def _keep_health(self, message):
        status = message.status[0]
        values = {pair.key: pair.value for pair in status.values}
        self.health = SimpleNamespace(level=status.level[0], message=status.message, values=values)
