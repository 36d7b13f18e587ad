"""``python -m benchmarks.quantization``."""

import sys

from benchmarks.quantization import main

sys.exit(main())
