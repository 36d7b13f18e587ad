"""``python -m benchmarks.growth``."""

import sys

from benchmarks.growth import main
from edge_runtime.cli.exit_codes import exit_code

sys.exit(exit_code("growth", main))
