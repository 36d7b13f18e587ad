"""The lifecycle node: wires topics, parameters and transitions to the pipeline; converts and computes nothing."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from edge_runtime.errors import BackendError, EdgeRuntimeError
from edge_runtime.inspector import Inspector
from edge_runtime.language.questions import Choice, Json, Text
from edge_runtime.memory.footprint import BARE_PROCESS_BYTES
from edge_runtime.memory.monitor import LevelChange
from edge_runtime.memory.plan import MemoryPlan, frame_bytes
from edge_runtime.memory.power import read_power
from edge_runtime.memory.telemetry import read_temperature_c, resident_bytes
from edge_runtime.reports.schema import ReportSchema
from edge_runtime.stream.frame_counters import Status
from edge_runtime.stream.loop import Failed
from edge_runtime.vision.image_decoding import DecodingRules
from inspection_ros.health import OK, Health, Heard, assess
from inspection_ros.inspect_server import InspectServer
from inspection_ros.lifecycle_guard import answer_impossible_transitions
from inspection_ros.parameter_overrides import check_qos_overrides
from inspection_ros.pipeline import ClosableInspector, Pipeline
from inspection_ros.publishers import Publishers, diagnostics_of
from inspection_ros.settings import SETTINGS, check_setting, declare_settings, refusal, rules_from
from inspection_ros.spin import run_node
from inspection_ros.subscriptions import Subscriptions, frame_from_message

DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 60.0  # a report in progress may take this long on a slow machine before the node gives up on it
RELEASE_TIMEOUT_S = 2.0  # one that is cut may take this long: who ends the process kills it after 10
LATELY = 10  # seconds, of frames that were lost
RETRY_PERIOD_S = 5.0  # a disk that is mounted late, or memory that comes back
LOG_PERIOD_S = 5.0  # a camera that sends nothing but rubbish must not fill the log
FAILURES_IN_A_ROW = 5  # of the engine: one is its frame's, so many are its own
GIVEN_UP_EXIT_CODE = 70  # EX_SOFTWARE: whoever supervises the process is to start it again


class OpenInspector(ClosableInspector, Protocol):
    """What the node needs of an inspector: everything that :class:`edge_runtime.inspector.Inspector` has."""

    @property
    def schema(self) -> ReportSchema:
        """What reports are in the words of."""

    @property
    def memory_plan(self) -> MemoryPlan:
        """Planned and measured bytes."""

    @property
    def level_changes(self) -> tuple[LevelChange, ...]:
        """What was given up for memory or for heat."""

    def check_question(self, question: str) -> None:
        """Raise ValueError where the question cannot be put to the model."""

    def check_ask(self, question: str, answer: Text | Choice | Json) -> None:
        """Raise ValueError where the question cannot be answered alone, in that form."""


class InspectionNode(LifecycleNode):
    """Configure opens the bundle, activate subscribes, deactivate finishes the report in progress, cleanup frees.

    A transition that fails says why in the log and frees what it had, so that configure works again.
    ``open_inspector`` is called as :meth:`Inspector.open` is: with the bundle's path, ``budget``, ``max_report_tokens``
    and ``schema``.
    """

    def __init__(self, open_inspector: Callable[..., OpenInspector], **node_options: Any) -> None:
        super().__init__("inspection", **node_options)
        self._open_inspector = open_inspector
        self._inspector: OpenInspector | None = None
        self._inspection_publishers = Publishers(self, self._locate)
        self._camera_subscriptions: Subscriptions | None = None
        self._failed_transition = ""
        self._engine_fails = ""  # why what is open must not go on
        self._opened_anew = False  # because of that
        self.pipeline: Pipeline[Any] | None = None
        self._is_finalized = False
        self._told_level = OK  # of diagnostics, in the log
        self._told_change_s = 0.0  # of the latest change of the inspector's level, in the log
        self._lost_before: deque[int] = deque(maxlen=LATELY)  # frames, by second
        self.left_behind = False  # whether an inspection goes on that nobody waits for
        self.given_up = ""  # why the process must be started anew; empty while it need not
        declare_settings(self)
        self.add_on_set_parameters_callback(self._consider_parameters)
        self._inspect_server = InspectServer(self, self, self._inspection_publishers.message_of)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # health is told even where simulated time stands still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._watch, clock=steady)
        self._retry = self.create_timer(RETRY_PERIOD_S, self.autostart, clock=steady)
        self._retry.cancel()
        answer_impossible_transitions(self)

    @property
    def memory_plan(self) -> MemoryPlan | None:
        """Planned and measured bytes; None while no bundle is open."""
        return None if self._inspector is None else self._inspector.memory_plan

    @property
    def cameras(self) -> Sequence[str]:
        """The cameras' topics, as the parameter names them."""
        return tuple(self._value("cameras"))

    def _consider_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        is_configured, is_active = self._inspector is not None, self.pipeline is not None
        reasons = [refusal(asked.name, asked.value, is_configured, is_active) for asked in parameters]
        reasons += [self.question_refusal(asked.value) for asked in parameters if asked.name == "question"]
        reason = "; ".join(filter(None, reasons))
        return SetParametersResult(successful=not reason, reason=reason)

    def question_refusal(self, question: str) -> str:
        """Why the question cannot be put to the model; empty where it can, or no bundle is open that would know."""
        if self._inspector is not None:
            try:
                self._inspector.check_question(question)
            except ValueError as error:
                return str(error)
        return ""

    def ask_refusal(self, question: str, answer: Text | Choice | Json) -> str:
        """Why the question cannot be answered alone, in that form; empty where it can."""
        if self._inspector is not None:
            try:
                self._inspector.check_ask(question, answer)
            except ValueError as error:
                return str(error)
        return ""

    def autostart(self) -> None:
        """Come up without being asked, where the parameter says so; where configure fails, again until it does not."""
        if self._value("autostart"):
            self._retry.reset()
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    # Transitions. rclpy swallows what they raise, so each says itself what went wrong.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the bundle inside the budget; stays unconfigured, with the reason logged, where that fails."""
        try:
            for setting in SETTINGS:  # what the node was started with has passed no callback
                check_setting(setting.name, self._value(setting.name))
            self._inspector = self._open()
            self._inspector.check_question(self._value("question"))
            self._inspection_publishers.open()
        except Exception as error:
            return self._failed("configure", error)
        self._retry.cancel()
        self._failed_transition = ""
        self.get_logger().info(f"bundle {self._value('bundle')} is open\n{self._inspector.memory_plan.table()}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe to the cameras."""
        assert self._inspector is not None, "configure comes before activate"
        result = super().on_activate(state)
        cameras = self.cameras
        decoding = DecodingRules(significant_bits=self._value("significant_bits") or None).within(
            frame_bytes(self._inspector.memory_plan)
        )
        try:
            self._inspection_publishers.begin_flight(self._inspector.schema)
            self.pipeline = Pipeline(
                cameras,
                lambda message: frame_from_message(message, decoding),
                self._inspector,
                self._inspection_publishers.report,
                self._tell_failure,
                rules=lambda: rules_from(self._value),
                priorities=dict(zip(cameras, self._value("priorities"), strict=False)),
            )
            self._camera_subscriptions = Subscriptions(
                self, self._value("image_transport"), cameras, self.pipeline.offer
            )
            check_qos_overrides(self)
        except Exception as error:
            return self._failed("activate", error)
        self._lost_before.clear()
        self.get_logger().info(f"active: inspects {', '.join(cameras)}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the report in progress be published, then stop; an engine that must not go on is an error."""
        try:
            self._stop(STOP_TIMEOUT_S)
            if self._engine_fails:
                raise BackendError(self._engine_fails)
        except (TimeoutError, BackendError) as error:
            return self._failed("deactivate", error)
        self.get_logger().info("inactive: nothing is inspected")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free every byte that configure took."""
        self.release()
        self.get_logger().info("unconfigured: the bundle is closed")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from any state."""
        self._retry.cancel()
        self.release()
        self._is_finalized = True
        self.get_logger().info("finalized")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what a failed transition left; the node is unconfigured afterwards."""
        self.release()
        return super().on_error(state)

    def _failed(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        trace = "" if isinstance(error, (EdgeRuntimeError, ValueError)) else f"\n{traceback.format_exc()}"
        self._failed_transition = f"{transition} failed: {error}"
        self.get_logger().error(f"{self._failed_transition}{trace}")
        return TransitionCallbackReturn.ERROR

    def release(self) -> None:
        """Stop the worker, close the inspector and take the topics down; does nothing where there is nothing.

        The report in progress is cut; one that does not end then is left behind, with the inspector.
        """
        try:
            self._stop(RELEASE_TIMEOUT_S, cut=True)
        except TimeoutError as error:
            self.get_logger().error(str(error))
        self._inspection_publishers.close()
        if self._inspector is not None:
            self._inspector.close()
            self._inspector = None

    def _open(self) -> OpenInspector:
        return self._open_inspector(
            self._value("bundle"),
            budget=self._value("budget") or None,
            max_report_tokens=self._value("max_report_tokens"),
            schema=self._value("schema") or None,
        )

    def _stop(self, timeout_s: float, cut: bool = False) -> None:
        if self._camera_subscriptions is not None:
            self._camera_subscriptions.close()
        pipeline, self.pipeline = self.pipeline, None
        if pipeline is not None:
            try:
                pipeline.stop(timeout_s, cut)
            except TimeoutError:
                self._inspector = None  # its thread has it, and closes it should it ever end
                self.left_behind = True
                raise

    # What the worker calls, on its own thread.

    def _locate(self, report: Any, camera: str) -> None:
        if self._camera_subscriptions is not None:
            self._camera_subscriptions.locate(report, camera)

    def _tell_failure(self, failed: Failed[Any]) -> None:
        if self.context.ok():  # a frame in progress when ROS is shut down finds no topic to go to
            self._inspection_publishers.failure(failed)
            self.get_logger().warning(f"frame {failed.index}: {failed.reason}", throttle_duration_sec=LOG_PERIOD_S)

    # Health, in every state.

    def _watch(self) -> None:
        if self.pipeline is not None:
            status = self.pipeline.status()
            if 0 < self._value("stuck_after_s") < status.busy_s:
                self._replace_worker(self.pipeline, status)
            elif status.engine_failures >= FAILURES_IN_A_ROW:
                self._open_anew(status)
        if self._camera_subscriptions is not None and self.pipeline is not None:
            self._camera_subscriptions.follow()
        self._publish_diagnostics()

    def _replace_worker(self, pipeline: Pipeline[Any], status: Status) -> None:
        """Leave an inspection that hangs, with its engines, and open the bundle once more.

        Frames would have nobody to inspect them meanwhile, so nothing is lost by doing it here.
        """
        self.get_logger().error(f"an inspection has taken {status.busy_s:.1f} s; opening the bundle anew")
        try:
            self._inspector = self._open()
        except Exception as error:
            self._give_up(f"an inspection hangs, and the bundle cannot be opened beside it: {error}")
        else:
            pipeline.replace_worker(self._inspector)

    def _open_anew(self, status: Status) -> None:
        """End a flight whose engine fails at every frame, through the lifecycle's error, and start another.

        What fails from its first frame on although it was opened anew is past help in this process: a CUDA context
        that has seen an illegal access, say, is lost to it.
        """
        failure = f"the engine failed {status.engine_failures} times in a row; {status.last_failure}"
        if self._opened_anew and status.counters.reported == 0:
            self._give_up(f"{failure}; opening the bundle anew has not helped")
            return
        self._engine_fails, self._opened_anew = failure, True
        self.trigger_deactivate()  # which fails, and frees everything
        self._engine_fails = ""
        self._publish_diagnostics()
        self.autostart()

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self.get_logger().fatal(why)

    def _publish_diagnostics(self) -> None:
        inspector, pipeline = self._inspector, self.pipeline
        health = assess(
            state=self._state_word,
            status=None if pipeline is None else pipeline.status(),
            memory_plan=None if inspector is None else inspector.memory_plan,
            temperature_c=read_temperature_c(),
            stale_after_s=self._value("stale_after_s"),
            frame_age_s=self._inspection_publishers.frame_age_s,
            level_changes=() if inspector is None else inspector.level_changes,
            failed_transition=self._failed_transition,
            power=read_power(),
            heard=self._heard(),
        )
        self._log_changes(health)
        activated_ns = self._inspection_publishers.activated_ns
        self._diagnostics.publish(diagnostics_of(self, health, self._value("bundle"), activated_ns))

    @property
    def _state_word(self) -> str:
        if self._is_finalized:
            return "finalized"
        return "unconfigured" if self._inspector is None else "inactive" if self.pipeline is None else "active"

    def _heard(self) -> Heard:
        topics = self._camera_subscriptions
        if topics is None or self.pipeline is None:
            return Heard()
        lost_before = self._lost_before[0] if self._lost_before else topics.lost
        self._lost_before.append(topics.lost)
        return Heard(topics.silence(), topics.lost, topics.lost - lost_before, topics.places(), topics.doubts())

    def _log_changes(self, health: Health) -> None:
        """Say in the log, too, what diagnostics say, when it changes."""
        changes = () if self._inspector is None else self._inspector.level_changes
        for change in changes:
            if change.at_s > self._told_change_s:
                self._told_change_s = change.at_s
                self.get_logger().warning(f"given up: {change.level}: {change.reason}")
        if health.level != self._told_level:
            self._told_level = health.level
            if health.level == OK:  # rclpy takes one severity a line
                self.get_logger().info(f"health: {health.message}")
            else:
                self.get_logger().warning(f"health: {health.message}")

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def destroy_node(self) -> None:
        """Take everything down; the node is of no use afterwards."""
        self._inspect_server.close()
        super().destroy_node()


@functools.cache
def ros_bytes() -> int:
    """What ROS takes of this process: what it holds when that is asked first, beside what every inspector's does."""
    return max(resident_bytes() - BARE_PROCESS_BYTES, 0)


def open_beside_ros(bundle: str, **options: Any) -> Inspector:
    """Open a bundle in a process that has ROS in it already, which counts in the budget."""
    return Inspector.open(bundle, beside_bytes=ros_bytes(), **options)


def main(args: list[str] | None = None, open_inspector: Callable[..., OpenInspector] = open_beside_ros) -> None:
    """Run the node until Ctrl-C; exit code 70 where an engine is past help in this process."""
    node = run_node(
        "inspection",
        lambda: InspectionNode(open_inspector),
        args,
        done=lambda node: bool(node.given_up),
        release=lambda node: None if node.given_up else node.release(),
        start=InspectionNode.autostart,
    )
    if node.given_up or node.left_behind:  # Python would end under the thread that still runs, and abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(GIVEN_UP_EXIT_CODE if node.given_up else 0)


if __name__ == "__main__":
    main()
