"""``python -m engines.cli``: the same as ``edge-engines``."""

import sys

from engines.cli import main

sys.exit(main())
