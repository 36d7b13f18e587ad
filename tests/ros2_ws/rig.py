"""The other side of the topics: a camera, a lifecycle manager and an audience for the node under test."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from inspection_msgs.action import Ask, Inspect
from inspection_msgs.msg import InspectionReport
from inspection_ros.node import InspectionNode
from inspection_ros.spin import spin
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from edge_runtime.ros.messages import fill_image

WAIT_S = 60.0  # a limit, not a pace: on a busy machine four processes take 20 s to start
FRAME = np.full((48, 64, 3), 127, np.uint8)
DIFFERENT = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


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
        self._actions = {}
        self._node = None
        self._thread = None
        self._done = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._done.set()
        if self._thread is not None:
            self._thread.join(WAIT_S)
            for client in self._actions.values():
                client.destroy()
            assert not self._thread.is_alive(), "the node's thread did not end"
            self._node.release()
            self._node.destroy_node()
            node, self._node = weakref.ref(self._node), None
            gc.collect()  # until then rclpy keeps the node's lifecycle services, and they would be asked
            assert node() is None, "something holds on to the node"
        self._client.destroy_node()

    def start_node(self, open_inspector, remap=(), **parameters):
        rules = [word for rule in remap for word in ("-r", rule)]
        parameters = {"skip_below": 0.0, **parameters}  # most tests show the same picture again and again
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        arguments = ["--ros-args", *rules] if rules else None
        self._node = InspectionNode(open_inspector, parameter_overrides=overrides, cli_args=arguments)
        self._node.autostart()
        self._thread = threading.Thread(target=spin, args=(self._node, lambda node: self._done.is_set()), daemon=True)
        self._thread.start()

    @property
    def others(self):
        """Names of the nodes on the network beside this one."""
        return [name for name in self._client.get_node_names() if name != self._client.get_name()]

    @property
    def camera_reliability(self):
        """How the node subscribes to the camera."""
        return self.reliability_of("image")

    def reliability_of(self, topic):
        """How the node subscribes to a topic; nothing while it changes that."""
        subscriptions = self._client.get_subscriptions_info_by_topic(topic)
        return subscriptions[0].qos_profile.reliability.name if len(subscriptions) == 1 else ""

    @property
    def report_reliability(self):
        """How the node publishes reports."""
        (publisher,) = self._client.get_publishers_info_by_topic("inspection/reports")
        return publisher.qos_profile.reliability.name

    def set_parameter(self, name, value):
        """Set a parameter as another node does; why it was refused, or nothing."""
        asked = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(SetParameters, "inspection/set_parameters", parameters=asked).results[0].reason

    def wait_until(self, condition, timeout_s=WAIT_S):
        """Serve the client's topics until ``condition``; fails the test where it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain"
            self._executor.spin_once(timeout_sec=0.01)

    def listen(self, duration_s):
        """Serve the client's topics for a while."""
        until_s = time.monotonic() + duration_s
        self.wait_until(lambda: time.monotonic() > until_s)

    def change(self, transition_id, timeout_s=WAIT_S):
        """Ask for a transition; whether it succeeded."""
        self.wait_until(self._change.service_is_ready)
        answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition_id)))
        self.wait_until(answer.done, timeout_s)
        return answer.result().success

    def change_at_once(self, *transition_ids):
        """Ask for all of these without waiting for an answer; whether each succeeded."""
        self.wait_until(self._change.service_is_ready)
        answers = [
            self._change.call_async(ChangeState.Request(transition=Transition(id=asked))) for asked in transition_ids
        ]
        self.wait_until(lambda: all(answer.done() for answer in answers))
        return [answer.result().success for answer in answers]

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

    def now(self):
        """The present as a stamp."""
        return self._client.get_clock().now().seconds_nanoseconds()

    def publish_frame(self, stamp=(0, 0), frame_id="camera", frame=FRAME, camera="image", **broken_fields):
        self.camera(camera).publish(self.image(stamp, frame_id, frame, **broken_fields))

    def image(self, stamp=(0, 0), frame_id="camera", frame=FRAME, **broken_fields):
        """A raw image, whole but for the fields that are given."""
        message = Image(header=Header(stamp=Time(sec=stamp[0], nanosec=stamp[1]), frame_id=frame_id))
        fill_image(message, frame)
        for name, value in broken_fields.items():
            setattr(message, name, value)
        return message

    def camera(self, topic, message_type=Image, qos=5, remapped=None):
        """The publisher of a topic, made where there is none yet; of ``remapped``, where the topic has another name."""
        if topic not in self._cameras:
            self._cameras[topic] = self._client.create_publisher(message_type, remapped or topic, qos)
        return self._cameras[topic]

    def watch_log(self):
        """What the node logs from now on."""
        lines = []
        self._client.create_subscription(
            Log, "/rosout", lambda message: message.name == "inspection" and lines.append(message.msg), 100
        )
        return lines

    def names(self, kind, node):
        """Full names of what a node publishes, subscribes or serves."""
        listed = getattr(self._client, f"get_{kind}_names_and_types_by_node")
        return {name for name, _ in listed(node, "/")}

    def audience(self, topic):
        """How many subscribe to a topic of the node."""
        return self._client.count_subscribers(topic)

    def restart_camera(self, topic, qos=5):
        """Take a camera's publisher down and put another in its place, once the node hears it."""
        self._client.destroy_publisher(self._cameras.pop(topic))
        self.camera(topic, qos=qos)
        self.connect(topic)

    def connect(self, *topics):
        """Wait until the node hears these topics."""
        self.wait_until(lambda: all(self._cameras[topic].get_subscription_count() for topic in topics))

    def call(self, service_type, name, **fields):
        """What a service of the node answers."""
        client = self._client.create_client(service_type, name)
        self.wait_until(client.service_is_ready)
        answer = client.call_async(service_type.Request(**fields))
        self.wait_until(answer.done)
        return answer.result()

    def send_goal(self, on_text=lambda text: None, action=Inspect, **fields):
        """Ask for an inspection, or a question; the goal's handle, which says whether it was accepted."""
        name = {Inspect: "inspection/inspect", Ask: "inspection/ask"}[action]
        client = self._actions.get(name) or ActionClient(self._client, action, name)
        self._actions[name] = client
        self.wait_until(client.server_is_ready)
        sent = client.send_goal_async(
            action.Goal(**fields), feedback_callback=lambda message: on_text(message.feedback.text)
        )
        self.wait_until(sent.done)
        return sent.result()

    def result_of(self, goal):
        """The status of a goal and its result, as soon as there is one."""
        answer = goal.get_result_async()
        self.wait_until(answer.done)
        return answer.result().status, answer.result().result

    def cancel(self, goal):
        canceled = goal.cancel_goal_async()
        self.wait_until(canceled.done)

    def publish_compressed(self, data):
        self._cameras["image/compressed"].publish(CompressedImage(format="jpeg", data=data))

    def watch_annotated(self, qos, kind=Image):
        topic = {Image: "inspection/annotated", CompressedImage: "inspection/annotated/compressed"}[kind]
        self._client.create_subscription(kind, topic, self.annotated.append, qos)
        self.wait_until(lambda: self._client.count_publishers("inspection/annotated") > 0)

    def _keep_health(self, message):
        status = message.status[0]
        values = {pair.key: pair.value for pair in status.values}
        self.health = SimpleNamespace(
            level=status.level[0], message=status.message, values=values, hardware_id=status.hardware_id
        )
