"""A whole flight on one machine: starts node and camera, brings the node up, prints and logs every report.

    ros2_ws/run .venv/bin/python -m inspection_ros.demo BUNDLE --frames 60 --out out/flight

Node and camera are processes of their own, reached only through topics and services, as on a drone. Writes
``OUT.jsonl`` and ``OUT.html``. Exit codes: 0 done, 1 an error or no report, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import rclpy
from inspection_msgs.msg import FrameFailure
from inspection_msgs.msg import InspectionReport as InspectionReportMessage
from lifecycle_msgs.msg import Transition
from rclpy.signals import SignalHandlerOptions

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import open_with_schema
from edge_runtime.cli.arguments import positive
from edge_runtime.errors import EdgeRuntimeError, SourceError
from edge_runtime.flight.log import FlightHeader, load_flight
from edge_runtime.flight.page.defects import defects_of
from edge_runtime.flight.page.page import write_page
from edge_runtime.reports.report import InspectionReport, text_from_report
from edge_runtime.ros.diagnostic_values import counters_from_values, memory_plan_from_values
from inspection_ros.demo.ground_station import GroundStation
from inspection_ros.demo.logbook import Logbook
from inspection_ros.loopback_only import keep_ros_local
from inspection_ros.replay.player import HIGHEST_RATE_HZ, LOWEST_RATE_HZ

# Within one machine, best effort loses a quarter of raw 640x480 frames in Fast DDS (23 of 30 arrived), reliable none.
LOSE_NO_FRAME = {"qos_overrides./image.subscription.reliability": "reliable"}

Process = subprocess.Popen[bytes]

CONFIGURE_TIMEOUT_S = 180.0  # a bundle of 11 GB is read from disk
CHANGE_TIMEOUT_S = 60.0
CAMERA_START_TIMEOUT_S = 60.0
LAST_REPORT_TIMEOUT_S = 120.0  # two frames may be under way when the camera ends
END_TIMEOUT_S = 15.0


def fly(node: Sequence[str], camera: Sequence[str], header: FlightHeader, out: Path, timeout_s: float) -> int:
    """Fly ``camera`` past ``node``, both commands, and write the log and the page; the number of reports.

    A camera that has not ended after ``timeout_s`` is ended.

    Raises:
        EdgeRuntimeError: node or camera failed; what was heard until then is in the log and on the page.
    """
    log, page = out.with_name(out.name + ".jsonl"), out.with_name(out.name + ".html")
    logbook = Logbook(log, header)

    def hear(stamp_ns: int, message: InspectionReportMessage, report: InspectionReport) -> None:
        stamp_s = logbook.keep_report(stamp_ns, message.frame_index, report)
        print(f"{stamp_s:6.1f} s  frame {message.frame_index}: {text_from_report(report)}", flush=True)

    def hear_failure(stamp_ns: int, message: FrameFailure) -> None:
        logbook.keep_failure(stamp_ns, message.frame_index, message.reason)

    station = GroundStation(logbook.keep_frame, hear, hear_failure, header.schema)
    try:
        with running(node) as node_process:
            bring_up_and_watch(station, logbook, node_process, camera, timeout_s)
    finally:
        counters = counters_from_values(station.health)
        logbook.close(counters, memory_plan_from_values(station.health))
        station.close()
        write_page(log, page)
    lost = (
        f", {counters.dropped} frames dropped for newer ones, {counters.skipped} skipped as they showed nothing new, "
        f"{counters.failed} failed"
        if counters
        else ""
    )
    defects = len(defects_of(load_flight(log).records))  # what the page counts
    print(f"{logbook.reports} reports with {logbook.findings} findings of {defects} defects{lost}")
    print(f"flight report: {page}")
    return logbook.reports


def bring_up_and_watch(
    station: GroundStation, logbook: Logbook, node: Process, camera: Sequence[str], timeout_s: float
) -> None:
    """Bring the node up, let the camera fly, listen to the end, and take the node down again."""

    def node_runs() -> bool:
        return node.poll() is None

    station.change_state(Transition.TRANSITION_CONFIGURE, CONFIGURE_TIMEOUT_S, node_runs)
    station.change_state(Transition.TRANSITION_ACTIVATE, CHANGE_TIMEOUT_S, node_runs)
    # Once a second; a flight that is interrupted before the first would have no counters to end with.
    station.wait_until(lambda: counters_from_values(station.health) is not None or not node_runs(), CHANGE_TIMEOUT_S)
    with running(camera) as player:
        station.wait_until(lambda: player.poll() is not None or not node_runs(), timeout_s)
        if player.poll():
            raise SourceError(f"the camera player ended with exit code {player.returncode}; its message is above")
    station.wait_for_the_last_report(lambda: logbook.reports, LAST_REPORT_TIMEOUT_S, node_runs)
    station.change_state(Transition.TRANSITION_DEACTIVATE, CHANGE_TIMEOUT_S, node_runs)
    station.change_state(Transition.TRANSITION_CLEANUP, CHANGE_TIMEOUT_S, node_runs)


@contextmanager
def running(command: Sequence[str]) -> Iterator[Process]:
    """Run a command for the length of a ``with``; asked to end by SIGINT, as Ctrl-C does, and killed if it will not."""
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for the demo, which ends things in order
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_TIMEOUT_S)


def ros_command(module: str, **parameters: str | int | float) -> list[str]:
    """The command that runs a node of this package; values are YAML, and JSON is the YAML that needs no care."""
    assignments = [word for name, value in parameters.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    return [sys.executable, "-m", f"inspection_ros.{module}", "--ros-args", *assignments]


def _rate_hz(text: str) -> float:
    with suppress(ValueError):
        if LOWEST_RATE_HZ <= (rate_hz := float(text)) <= HIGHEST_RATE_HZ:
            return rate_hz
    raise argparse.ArgumentTypeError(f"{text!r} is not a rate from {LOWEST_RATE_HZ:g} to {HIGHEST_RATE_HZ:g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and fly."""
    parser = argparse.ArgumentParser(prog="inspection_ros.demo", description="Fly a camera past an inspection node.")
    parser.add_argument("bundle", help="folder of the engine bundle")
    parser.add_argument("--frames", type=positive, default=60, help="frames that the camera takes (%(default)s)")
    parser.add_argument("--rate", type=_rate_hz, default=5.0, help="frames a second (%(default)s)")
    parser.add_argument("--source", default="rendered:1", help="folder, video or rendered:SEED (%(default)s)")
    parser.add_argument("--budget", default="2GB", help="memory that the node may take (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/flight"), help="where .jsonl and .html go (%(default)s)")
    asked = parser.parse_args(arguments)
    keep_ros_local()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        bundle, reported = open_with_schema(load_bundle(asked.bundle), None)
        manifest = bundle.manifest
        words = f"{manifest.name}, {manifest.recipe}, {manifest.target}"
        reports = fly(
            ros_command("node", bundle=asked.bundle, budget=asked.budget, **LOSE_NO_FRAME),
            ros_command(
                "replay.player",
                source=asked.source,
                rate_hz=asked.rate,
                max_frames=asked.frames,
                wait_for_subscribers=2,
            ),
            FlightHeader(words, asked.source, time.time(), reported.schema),
            asked.out,
            timeout_s=CAMERA_START_TIMEOUT_S + 3 * asked.frames / asked.rate,
        )
    except EdgeRuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    finally:
        rclpy.try_shutdown()
    if not reports:
        print("demo: no report arrived; the node's log above says why", file=sys.stderr)
    return 0 if reports else 1
