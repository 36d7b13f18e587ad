"""A long flight: a camera of 1920x1080 at 30 frames a second past the real node, and whether it stays as it was.

    make soak MINUTES=30   or: ros2_ws/run .venv/bin/python -m tests.ros2_ws.soak BUNDLE [--minutes 30] [--damaged]

Prints what it measured as one JSON object; exit code 1 where something is not as it must be. Frames are JPEG unless
``--raw``: publishing 187 MB of raw pixels a second takes more of two cores than the inspector leaves. ``--damaged``
harms one in twenty of them, in one of eight ways: each has to fail, and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from itertools import pairwise
from statistics import median

import cv2
import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from inspection_msgs.msg import FrameFailure, InspectionReport
from inspection_ros.demo import ros_command, running
from inspection_ros.loopback_only import keep_ros_local
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from edge_runtime.ros.diagnostic_values import counters_from_values
from edge_runtime.ros.messages import fill_compressed, fill_image
from engines.reference.flight import render_flight

RATE_HZ = 30.0
WIDTH, HEIGHT = 1920, 1080
PICTURES = 30
WARM_UP_SHARE = 0.25
WAIT_S = 120.0

SLOPE_LIMIT_MB = 1.0  # in 10 minutes, after warm-up
PAGES_MB = 1.0  # an allocator's steps, which a flight of less than 10 minutes cannot tell from growth
HANDOVER_LIMIT_MS = 10.0
DAMAGED_PERIOD = 20
SOUND, DAMAGED = "camera", "damaged"  # frame_id: how the flight knows its frames again
STALE_LIMIT_S = 1.0  # a frame's age when its inspection starts; the 99th percentile was 0.4 on a machine with load 17


class Flight:
    """A camera and an audience on one executor."""

    def __init__(self, is_raw: bool, is_damaged: bool) -> None:
        self.reports: list[InspectionReport] = []
        self.failures: list[FrameFailure] = []
        self.health: dict[str, str] = {}
        self.handovers_ms: list[float] = []  # the 99th percentile of 512 callbacks, told once a second
        self.published = 0
        self._node = rclpy.create_node("soak")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(InspectionReport, "inspection/reports", self.reports.append, 50)
        self._node.create_subscription(FrameFailure, "inspection/failures", self.failures.append, 50)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear_health, 10)
        kind, topic = (Image, "image") if is_raw else (CompressedImage, "image/compressed")
        self._camera = self._node.create_publisher(kind, topic, QoSProfile(depth=1))
        self._messages = [message_of(picture, is_raw) for picture in pictures()]
        self._harmed = [harmed(self._messages[0], way) for way in WAYS] if is_damaged else []

    def listen(self, condition, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline_s:
            self._executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def film(self, duration_s: float, every_second) -> None:
        """Publish at the camera's rate; a frame that is late is left out, as a camera leaves it out."""
        started_s = time.monotonic()
        due_s = next_second_s = started_s
        while (now_s := time.monotonic()) < started_s + duration_s:
            if now_s >= next_second_s:
                every_second()
                next_second_s = now_s + 1.0
            if now_s >= due_s:
                message = self._next()
                message.header.stamp = self._node.get_clock().now().to_msg()
                self._camera.publish(message)
                self.published += 1
                due_s = max(due_s + 1 / RATE_HZ, now_s)
            self._executor.spin_once(timeout_sec=max(0.0, min(due_s - time.monotonic(), 0.02)))

    def _next(self):
        if self._harmed and self.published % DAMAGED_PERIOD == DAMAGED_PERIOD // 2:
            return self._harmed[self.published // DAMAGED_PERIOD % len(self._harmed)]
        return self._messages[self.published % len(self._messages)]

    def settled(self) -> bool:
        now = counters_from_values(self.health)
        return now is not None and now.received == now.reported + now.skipped + now.dropped + now.failed

    def _hear_health(self, message: DiagnosticArray) -> None:
        self.health = {pair.key: pair.value for pair in message.status[0].values}
        self.handovers_ms.append(float(self.health.get("handover_p99_ms", 0.0)))


def pictures():
    """A flight along a rendered bridge, as large as the camera."""
    for picture in render_flight(1, PICTURES):
        yield cv2.resize(np.asarray(picture), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def message_of(picture, is_raw: bool):
    message = Image() if is_raw else CompressedImage()
    (fill_image if is_raw else fill_compressed)(message, picture)
    message.header.frame_id = SOUND
    return message


def scan_of(jpeg: bytes) -> int:
    """Where the compressed pixels of a JPEG file begin."""
    marker = jpeg.index(b"\xff\xda")
    return marker + 2 + int.from_bytes(jpeg[marker + 2 : marker + 4], "big")


END = b"\xff\xd9"
WAYS = {
    "cut in half": lambda jpeg: jpeg[: len(jpeg) // 2],
    "no scan between whole ends": lambda jpeg: jpeg[: scan_of(jpeg)] + END,
    "a tenth of the scan": lambda jpeg: jpeg[: scan_of(jpeg) + (len(jpeg) - scan_of(jpeg)) // 10] + END,
    "4 kB zeroed": lambda jpeg: jpeg[: len(jpeg) // 2] + bytes(4096) + jpeg[len(jpeg) // 2 + 4096 :],
    "8 kB lost": lambda jpeg: jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 8192 :],
    "its start lost": lambda jpeg: jpeg[1000:],
    "empty": lambda jpeg: b"",
    "no picture": lambda jpeg: b"no picture" * 1000,
}


def harmed(message, way: str):
    """A message of a JPEG file, damaged in one of ``WAYS``."""
    found = CompressedImage(format=message.format, data=WAYS[way](bytes(message.data)))
    found.header.frame_id = DAMAGED
    return found


def fly(bundle: str, minutes: float, is_raw: bool, is_damaged: bool) -> dict[str, object]:
    """Fly, land, and tell what was measured."""
    flight = Flight(is_raw, is_damaged)
    command = ros_command(
        "node", bundle=bundle, budget="2GB", autostart=True, image_transport="raw" if is_raw else "compressed"
    )
    resident_mb: list[float] = []
    with running(command) as process:
        if not flight.listen(lambda: flight.health.get("state") == "active" or process.poll() is not None, WAIT_S):
            raise SystemExit("soak: the node did not come up; its log above says why")
        node = psutil.Process(process.pid)
        flight.film(60 * minutes, lambda: resident_mb.append(node.memory_info().rss / 1e6))
        flight.listen(lambda: False, 2.5)  # the last frame, and the health that tells of it
        flight.listen(flight.settled, WAIT_S)
        landed_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        exit_code = process.wait(WAIT_S)
        landing_s = time.monotonic() - landed_s
    age_at_start_s = sorted(report.frame_age_s - report.timings.total_ms / 1000 for report in flight.reports)
    return {
        "minutes": minutes,
        "published": flight.published,
        "published_hz": round(flight.published / (60 * minutes), 1),
        "counters": vars(counters_from_values(flight.health)),
        "damaged_and_failed": sum(failed.header.frame_id == DAMAGED for failed in flight.failures),
        "damaged_and_reported": sum(report.header.frame_id == DAMAGED for report in flight.reports),
        "sound_and_failed": sum(failed.header.frame_id != DAMAGED for failed in flight.failures),
        "is_damaged": is_damaged,
        "settled": flight.settled(),
        "heard": len(flight.reports),
        "in_order": all(before.frame_index < after.frame_index for before, after in pairwise(flight.reports)),
        "about_the_newest": are_about_the_newest(flight.reports),
        "frame_age_at_start_median_s": round(median(age_at_start_s), 3),
        "frame_age_at_start_p99_s": round(age_at_start_s[int(0.99 * (len(age_at_start_s) - 1))], 3),
        "handover_worst_p99_ms": max(flight.handovers_ms),
        "latency_median_ms": float(flight.health["latency_median_ms"]),
        **growth_of(resident_mb),
        "exit_code": exit_code,
        "landing_s": round(landing_s, 2),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def are_about_the_newest(reports: list[InspectionReport]) -> bool:
    """Whether each inspection took the newest frame that had arrived when the one before it had ended, or a newer."""
    return all(after.frame_index >= before.frames_received - 1 for before, after in pairwise(reports))


def growth_of(resident_mb: list[float]) -> dict[str, object]:
    """How much memory the node holds after warm-up, and how steadily that grows.

    The median of the slopes between any two readings (Theil, 1950; Sen, 1968): a step of the allocator tilts
    it less than a line through them all, and a leak as much.
    """
    warm = np.array(resident_mb[int(len(resident_mb) * WARM_UP_SHARE) :])
    earlier, later = np.triu_indices(len(warm), 1)
    a_second = np.median((warm[later] - warm[earlier]) / (later - earlier))
    return {
        "resident_mb": round(float(np.median(warm)), 1),
        "resident_mb_by_minute": [round(median(resident_mb[i : i + 60]), 1) for i in range(0, len(resident_mb), 60)],
        "growth_mb": round(float(a_second * len(warm)), 2),
        "growth_in_10_minutes_mb": round(float(a_second * 600), 2),
    }


def faults_of(measured: dict[str, object]) -> list[str]:
    """What is not as it must be."""
    counters = measured["counters"]
    must = {
        "frames arrive": counters["received"] > 0.5 * measured["published"],
        "every frame is accounted for": measured["settled"],
        "no sound frame fails": measured["sound_and_failed"] == 0,
        "every failure is heard": counters["failed"] == measured["damaged_and_failed"] + measured["sound_and_failed"],
        "no damaged frame is reported": measured["damaged_and_reported"] == 0,
        "damaged frames come where they are asked for": (measured["damaged_and_failed"] > 0) == measured["is_damaged"],
        "every report is heard, in order": measured["heard"] == counters["reported"] and measured["in_order"],
        "every inspection takes the newest frame": measured["about_the_newest"],
        f"inspections start on frames of at most {STALE_LIMIT_S} s": measured["frame_age_at_start_p99_s"]
        <= STALE_LIMIT_S,
        f"callbacks take at most {HANDOVER_LIMIT_MS} ms": measured["handover_worst_p99_ms"] <= HANDOVER_LIMIT_MS,
        f"memory grows by at most {SLOPE_LIMIT_MB} MB in 10 minutes": measured["growth_mb"] <= PAGES_MB
        or measured["growth_in_10_minutes_mb"] <= SLOPE_LIMIT_MB,
        "it lands cleanly": measured["exit_code"] == 0,
    }
    return [rule for rule, holds in must.items() if not holds]


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Fly for a long time.")
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--raw", action="store_true", help="publish raw pixels")
    parser.add_argument("--damaged", action="store_true", help="harm one in twenty frames, in one of eight ways")
    asked = parser.parse_args()
    if asked.raw and asked.damaged:
        parser.error("--damaged harms JPEG files; leave --raw out")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    keep_ros_local()
    rclpy.init()
    try:
        measured = fly(asked.bundle, asked.minutes, asked.raw, asked.damaged)
    finally:
        rclpy.try_shutdown()
    faults = faults_of(measured)
    print(json.dumps({**measured, "not_as_it_must_be": faults}, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
