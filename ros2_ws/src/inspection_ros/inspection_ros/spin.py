"""Runs one node until it is done or asked to end, and takes it down cleanly; knows nothing of what the node does."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
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
from inspection_ros.parameter_overrides import check_node_names, check_overrides

AnyNode = TypeVar("AnyNode", bound=Node)

_SPIN_S = 0.25
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INSISTED_S = (
    4.0  # launch asks a second time after 5; a terminal and a control group do at once, as does launch for them
)


def run_node(
    name: str,
    make: Callable[[], AnyNode],
    args: list[str] | None = None,
    done: Callable[[AnyNode], bool] = lambda node: False,
    release: Callable[[AnyNode], None] = lambda node: None,
    start: Callable[[AnyNode], None] = lambda node: None,
) -> AnyNode:
    """Spin the node that ``make`` gives until it is ``done``, or until SIGINT, SIGTERM or SIGHUP; then ``release`` it.

    It is told to ``start`` before, and comes back for its last words. A signal that comes 4 s or more after the first
    ends the process at once; those before say the same thing again. A parameter that makes no sense, or that the node
    does not have, ends it with ``name``, the reason and exit code 1.
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
                check_node_names(node, sys.argv if args is None else args)
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
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; under ``nohup``, SIGHUP stays ignored.

    rclpy's own handlers shut ROS down on another thread, while this one may still be making the node, publishing its
    last report, or past the place that catches KeyboardInterrupt: on a busy machine, all of that happened.
    """
    asked = threading.Event()
    asked_s = math.inf

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_s
        if time.monotonic() - asked_s >= _INSISTED_S:
            os._exit(128 + number)  # as a shell reports it; an exception would come in the middle of anything
        asked_s = min(asked_s, time.monotonic())
        asked.set()

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    before = {number: signal.signal(number, ask) for number in _ENDINGS if not (number == signal.SIGHUP and ignored)}
    try:
        yield asked
    finally:
        for number, handler in before.items():  # the process ends as asked, and no repetition of it matters
            signal.signal(number, signal.SIG_IGN if asked.is_set() else handler)


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
