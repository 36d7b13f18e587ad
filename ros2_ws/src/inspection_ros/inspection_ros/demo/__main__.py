"""``python -m inspection_ros.demo``: a camera, the node and a ground station, until the flight is over."""

import sys

from inspection_ros.demo import main

sys.exit(main())
