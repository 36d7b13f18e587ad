"""Runs one node until it is done or Ctrl-C comes, and takes it down cleanly; knows nothing of what the node does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

AnyNode = TypeVar("AnyNode", bound=Node)

_SPIN_S = 0.5


def run_node(
    make: Callable[[], AnyNode],
    args: list[str] | None = None,
    done: Callable[[AnyNode], bool] = lambda node: False,
    release: Callable[[AnyNode], None] = lambda node: None,
) -> AnyNode | None:
    """Spin the node that ``make`` gives until it is ``done``, or until SIGINT or SIGTERM; then ``release`` it.

    The node comes back for its last words; None where the signal came before there was one. (``with rclpy.init()``
    would say this shorter, but fails on Humble and Jazzy.)
    """
    node = None
    rclpy.init(args=args)
    try:
        node = _made(make)
        if node is None:
            return None
        try:
            spin(node, done)
        finally:
            release(node)
            node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # that is how a node is asked to end
    finally:
        rclpy.try_shutdown()
    return node


def _made(make: Callable[[], AnyNode]) -> AnyNode | None:
    try:
        return make()
    except Exception:
        if rclpy.ok():
            raise
        return None  # the signal came meanwhile and took ROS away from under the half-made node


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
        raise
    except Exception as error:  # rclpy raises where a client asks for a transition that is not possible now
        if rclpy.ok():
            node.get_logger().error(f"{type(error).__name__}: {error}")
