"""Runs one node until it is done or asked to end, and takes it down cleanly; knows nothing of what the node does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from edge_runtime.errors import UsageError
from inspection_ros.parameter_overrides import check_overrides

AnyNode = TypeVar("AnyNode", bound=Node)

_SPIN_S = 0.25
_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def run_node(
    name: str,
    make: Callable[[], AnyNode],
    args: list[str] | None = None,
    done: Callable[[AnyNode], bool] = lambda node: False,
    release: Callable[[AnyNode], None] = lambda node: None,
    start: Callable[[AnyNode], None] = lambda node: None,
) -> AnyNode:
    """Spin the node that ``make`` gives until it is ``done``, or until SIGINT or SIGTERM; then ``release`` it.

    It is told to ``start`` before, and comes back for its last words. A second signal ends the process at once, and so
    does a parameter that makes no sense, or that the node does not have, with ``name``, the reason and exit code 1.
    (``with rclpy.init()`` would say this shorter, but fails on Humble and Jazzy.)
    """
    with _awaiting_signals() as asked_to_end:
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:  # arguments, or a file of parameters, that rcl cannot read
            sys.exit(f"{name}: {error}")
        try:
            node = make()
            try:
                check_overrides(node)
                start(node)
                spin(node, lambda node: asked_to_end.is_set() or done(node))
            finally:
                release(node)
                node.destroy_node()
        except (InvalidParameterTypeException, InvalidParameterValueException, UsageError) as error:
            sys.exit(f"{name}: {error}")
        finally:
            rclpy.try_shutdown()
    return node


@contextmanager
def _awaiting_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets.

    rclpy's own handlers shut ROS down on another thread, while this one may still be making the node, publishing its
    last report, or past the place that catches KeyboardInterrupt: on a busy machine, all of that happened.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in _ENDINGS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spin(node: AnyNode, done: Callable[[AnyNode], bool]) -> None:
    """Serve the node's callbacks until it is ``done`` or ROS shuts down; a callback that raises does not end it."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok() and not done(node):
        _spin_once(executor, node)


def _spin_once(executor: SingleThreadedExecutor, node: Node) -> None:
    try:
        executor.spin_once(timeout_sec=_SPIN_S)
    except ExternalShutdownException:
        pass  # someone else shut ROS down
    except Exception as error:
        if rclpy.ok():
            node.get_logger().error(f"{type(error).__name__}: {error}")
