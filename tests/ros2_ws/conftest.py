"""Puts the inspection_ros package on the path, and lends a ROS of its own to tests that need one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "inspection_ros"
if str(PACKAGE) not in sys.path:
    sys.path.insert(0, str(PACKAGE))


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """ROS of this process and its children: on this machine only, in a domain that no other run shares."""
    rclpy = pytest.importorskip("rclpy", reason="no ROS 2: run ros2_ws/setup_ros.py")
    from inspection_ros.loopback_only import keep_ros_local

    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)  # above 101 the ports may be taken by other programs
    keep_ros_local()
    rclpy.init()
    try:
        yield
    finally:
        rclpy.try_shutdown()


@pytest.fixture
def rig(ros: None) -> Iterator[Any]:
    """A client on the other side of the topics; see :class:`tests.ros2_ws.rig.Rig`."""
    from tests.ros2_ws.rig import Rig

    with Rig() as opened:
        yield opened
