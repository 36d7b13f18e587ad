"""The lifecycle node: wires topics, parameters and transitions to the pipeline; converts and computes nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Protocol

import inspection_msgs.msg
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from edge_runtime.annotate import draw_report
from edge_runtime.budget import Ledger
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.inspector import Inspector
from edge_runtime.report import InspectionReport
from edge_runtime.telemetry import read_temperature_c
from inspection_ros.convert import (
    Frame,
    fill_image,
    frame_from_compressed,
    frame_from_image,
    message_from_report,
    nanoseconds,
)
from inspection_ros.health import assess
from inspection_ros.pipeline import Inspected, Pipeline
from inspection_ros.running import run_node

DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 60.0  # a report in progress may take this long on a slow machine before the node gives up on it
LOG_PERIOD_S = 5.0  # a camera that sends nothing but rubbish must not fill the log

REPORT_QOS = QoSProfile(depth=10)  # reports are small and few, and none should be lost

# By the parameter `image_transport`: message type, topic, and what makes a frame of a message.
TRANSPORTS: dict[str, tuple[Any, str, Callable[[Any], Frame]]] = {
    "raw": (Image, "image", frame_from_image),
    "compressed": (CompressedImage, "image/compressed", frame_from_compressed),
}


def camera_qos() -> QoSProfile:
    """A camera's frames are worth nothing once a newer one is there: depth 1, and no retransmission of lost ones.

    A new object each time, because rclpy writes overrides into the one it is given.
    """
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class OpenInspector(Protocol):
    """What the node needs of an inspector: everything that :class:`edge_runtime.inspector.Inspector` has."""

    @property
    def ledger(self) -> Ledger:
        """Planned and measured bytes."""

    def inspect(self, frame: Frame) -> InspectionReport:
        """The report of one frame."""

    def close(self) -> None:
        """Free every byte."""


class InspectionNode(LifecycleNode):
    """Configure opens the bundle, activate subscribes, deactivate finishes the report in progress, cleanup frees.

    A transition that fails says why in the log and frees what it had, so that configure works again.
    ``open_inspector`` is called as :meth:`Inspector.open` is: with the bundle's path, ``budget`` and
    ``max_report_tokens``.
    """

    def __init__(self, open_inspector: Callable[..., OpenInspector], **node_options: Any) -> None:
        super().__init__("inspection", **node_options)
        self._open_inspector = open_inspector
        self._inspector: OpenInspector | None = None
        self._pipeline: Pipeline[Any] | None = None
        self._transport = ""
        self._subscription: Any = None
        self._reports: Any = None
        self._annotated: Any = None
        self._declare_parameters()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # health is told even where simulated time stands still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)

    def _declare_parameters(self) -> None:
        def declare(name: str, default: Any, description: str, **limits: Any) -> None:
            self.declare_parameter(name, default, ParameterDescriptor(description=description, **limits))

        declare("bundle", "", "Folder of the engine bundle to open; read by configure.")
        declare("budget", "", "Memory that the bundle may take: 2GB, 512MiB; empty for all that is available.")
        declare(
            "max_report_tokens",
            256,
            "Length limit of one report; a longer one is cut after its last complete finding; read by configure.",
            integer_range=[IntegerRange(from_value=8, to_value=4096, step=1)],
        )
        declare("image_transport", "raw", f"One of {', '.join(TRANSPORTS)}: which topic to subscribe to.")
        declare(
            "stale_after_s",
            2.0,
            "Silence of the camera, in seconds, after which diagnostics call it stale.",
            floating_point_range=[FloatingPointRange(from_value=0.1, to_value=3600.0)],
        )

    # Transitions. rclpy swallows what they raise, so each says itself what went wrong.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the bundle inside the budget; stays unconfigured, with the reason logged, where that fails."""
        try:
            self._transport = self._value("image_transport")
            if self._transport not in TRANSPORTS:
                raise ValueError(f"image_transport is {self._transport!r}; set one of {', '.join(TRANSPORTS)}")
            self._inspector = self._open_inspector(
                self._value("bundle"),
                budget=self._value("budget") or None,
                max_report_tokens=self._value("max_report_tokens"),
            )
            self._reports = self.create_lifecycle_publisher(
                inspection_msgs.msg.InspectionReport, "inspection/reports", REPORT_QOS
            )
            self._annotated = self.create_lifecycle_publisher(Image, "inspection/annotated", camera_qos())
        except Exception as error:
            return self._failed("configure", error)
        self.get_logger().info(f"bundle {self._value('bundle')} is open\n{self._inspector.ledger.table()}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe to the camera."""
        assert self._inspector is not None, "configure comes before activate"
        result = super().on_activate(state)
        message_type, topic, to_frame = TRANSPORTS[self._transport]
        try:
            self._pipeline = Pipeline(to_frame, self._inspector.inspect, self._publish, self._warn)
            self._subscription = self.create_subscription(
                message_type,
                topic,
                self._pipeline.offer,
                camera_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),  # parameters qos_overrides./TOPIC
            )
        except Exception as error:
            return self._failed("activate", error)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the report in progress be published, then stop."""
        try:
            self._stop()
        except TimeoutError as error:
            return self._failed("deactivate", error)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free every byte that configure took."""
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from any state."""
        self.release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what a failed transition left; the node is unconfigured afterwards, or finalized if it hangs."""
        self.release()
        return super().on_error(state)

    def _failed(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        trace = "" if isinstance(error, (EdgeRuntimeError, ValueError)) else f"\n{traceback.format_exc()}"
        self.get_logger().error(f"{transition} failed: {error}{trace}")
        return TransitionCallbackReturn.ERROR

    def release(self) -> None:
        """Stop the worker, close the inspector and take the topics down; does nothing where there is nothing."""
        self._stop()
        for publisher in (self._reports, self._annotated):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._reports = self._annotated = None
        if self._inspector is not None:
            self._inspector.close()
            self._inspector = None

    def _stop(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._pipeline is not None:
            self._pipeline.stop(STOP_TIMEOUT_S)
            self._pipeline = None

    # What the worker calls, on its own thread.

    def _publish(self, inspected: Inspected[Any]) -> None:
        header, counters = inspected.message.header, inspected.counters
        report = message_from_report(inspected.report, inspection_msgs.msg)
        report.header = header
        report.frame_index = inspected.index
        report.frame_age_s = (self.get_clock().now().nanoseconds - nanoseconds(header.stamp)) / 1e9
        report.frames_received = counters.received
        report.frames_dropped = counters.dropped
        report.frames_failed = counters.failed
        self._reports.publish(report)
        if self._annotated.get_subscription_count():
            picture = Image(header=header)
            fill_image(picture, draw_report(inspected.frame, inspected.report))
            self._annotated.publish(picture)

    def _warn(self, failure: str) -> None:
        if self.context.ok():  # a report in progress at Ctrl-C finds no topic to go to
            self.get_logger().warning(failure, throttle_duration_sec=LOG_PERIOD_S)

    # Health, in every state.

    def _publish_diagnostics(self) -> None:
        inspector, pipeline = self._inspector, self._pipeline
        health = assess(
            state="unconfigured" if inspector is None else "inactive" if pipeline is None else "active",
            status=None if pipeline is None else pipeline.status(),
            ledger=None if inspector is None else inspector.ledger,
            temperature_c=read_temperature_c(),
            stale_after_s=self._value("stale_after_s"),
        )
        status = DiagnosticStatus(
            level=bytes([health.level]),
            name=f"{self.get_fully_qualified_name()}: inspection",
            message=health.message,
            values=[KeyValue(key=key, value=value) for key, value in health.values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def main(args: list[str] | None = None) -> None:
    """Run the node until Ctrl-C."""
    run_node(lambda: InspectionNode(Inspector.open), args, release=InspectionNode.release)


if __name__ == "__main__":
    main()
