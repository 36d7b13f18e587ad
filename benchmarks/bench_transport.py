"""What a 4K frame costs from its publisher to the pixel tensor: the node's way, beside a plain rclpy and OpenCV node.

    ros2_ws/run .venv/bin/python -m benchmarks.bench_transport BUNDLE [--frames 30]

With FASTRTPS_DEFAULT_PROFILES_FILE=ros2_ws/src/inspection_ros/config/fastdds.xml before it, with the transport of the
launch files.

A camera in a process of its own publishes raw frames. Both ways get every frame, by turns first and second; what the
middleware takes is the same for both. *Copies* are what numpy and OpenCV allocate at the most, in frames.

The plain way is what tutorials show: an array made of the message's data, turned to RGB, resized, scaled, transposed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import cv2
import numpy as np
import rclpy
from inspection_ros.loopback_only import keep_ros_local
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from edge_runtime.bundle.manifest import ImageSpec
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.ros.messages import fill_image, frame_from_image
from edge_runtime.vision.image_processors import pixels_from_frame

WIDTH, HEIGHT = 3840, 2160
PERIOD_S = 0.5
WAIT_S = 60.0
QOS = QoSProfile(depth=1)

Way = Callable[[Any, ImageSpec], NDArray[np.float32]]


def ours(message: Any, spec: ImageSpec) -> NDArray[np.float32]:
    """What the node does."""
    return pixels_from_frame(frame_from_image(message), spec)


def plain(message: Any, spec: ImageSpec) -> NDArray[np.float32]:
    """What a node without us does, for a tensor of the same size."""
    frame = np.array(message.data, np.uint8).reshape(message.height, message.width, 3)
    picture = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    small = cv2.resize(picture, (spec.pixels.width, spec.pixels.height), interpolation=cv2.INTER_AREA)
    scaled = (small.astype(np.float32) / 255 - np.float32(spec.pixels.mean)) / np.float32(spec.pixels.std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))[np.newaxis]


WAYS: dict[str, Way] = {"ours": ours, "plain rclpy and OpenCV": plain}


def publish(frames: int) -> None:
    """The camera: its stamps are of the clock that all processes of a machine share."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # the end of the measurement ends it at once
    node = rclpy.create_node("camera")
    camera = node.create_publisher(Image, "image", QOS)
    message = Image()
    fill_image(message, np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    while camera.get_subscription_count() == 0:
        time.sleep(0.05)
    for _ in range(frames):
        now_ns = time.monotonic_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 1_000_000_000)
        camera.publish(message)
        time.sleep(PERIOD_S)


def measure(frames: int, spec: ImageSpec) -> dict[str, Any]:
    """Receive the camera's frames; medians over those that arrived."""
    transports_ms: list[float] = []
    spent_ms: dict[str, list[float]] = {name: [] for name in WAYS}
    copies: dict[str, float] = {}

    def hear(message: Any) -> None:
        stamp = message.header.stamp
        transports_ms.append((time.monotonic_ns() - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6)
        turn = list(WAYS.items())
        for name, way in turn if len(transports_ms) % 2 else reversed(turn):
            started_s = time.perf_counter()
            way(message, spec)
            spent_ms[name].append((time.perf_counter() - started_s) * 1000)
        if len(transports_ms) == 1:  # tracing slows what it traces
            copies.update({name: peak_bytes(way, message, spec) / len(message.data) for name, way in WAYS.items()})

    node = rclpy.create_node("bench_transport")
    node.create_subscription(Image, "image", hear, QOS)
    deadline_s = time.monotonic() + frames * PERIOD_S + WAIT_S
    while len(transports_ms) < frames and time.monotonic() < deadline_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    return {
        "frame_bytes": WIDTH * HEIGHT * 3,
        "arrived": len(transports_ms),
        "publisher_to_callback_ms": round(median(transports_ms), 1),
        "callback_to_tensor_ms": {name: round(median(times), 1) for name, times in spent_ms.items()},
        "copies": {name: round(count, 2) for name, count in copies.items()},
    }


def peak_bytes(way: Way, message: Any, spec: ImageSpec) -> int:
    """What one frame allocates at the most."""
    tracemalloc.start()
    way(message, spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> int:
    """Fly, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="bench_transport", description="Cost of a 4K frame on its way to a tensor.")
    parser.add_argument("bundle")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    keep_ros_local()
    if asked.publish:
        publish(asked.frames)
        return 0
    spec = load_bundle(asked.bundle).manifest.image
    command = [sys.executable, "-m", "benchmarks.bench_transport", asked.bundle, "--publish", "--frames"]
    with subprocess.Popen([*command, str(asked.frames + 5)]) as camera:  # the first may be missed
        rclpy.init()
        try:
            print(json.dumps(measure(asked.frames, spec), indent=2))
        finally:
            rclpy.try_shutdown()
            camera.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
