"""Keeps ROS on this machine, in the words of the distribution at hand; the only file that asks which one it is."""

from __future__ import annotations

import os


def keep_ros_local() -> None:
    """Hide this process and its children from the network, unless the environment already says who may see them.

    Humble knows only ``ROS_LOCALHOST_ONLY``; Jazzy warns about that name and wants the other.
    """
    if {"ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE"} & os.environ.keys():
        return
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
