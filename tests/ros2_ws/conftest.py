"""Puts the inspection_ros package on the path, so that what needs no ROS is tested everywhere."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ros2_ws" / "src" / "inspection_ros"
if str(PACKAGE) not in sys.path:
    sys.path.insert(0, str(PACKAGE))
