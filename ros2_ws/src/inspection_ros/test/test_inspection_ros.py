"""What ``colcon test`` runs: the node's tests, which lie with the repository's others, in a process of their own."""

import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

REPOSITORY = Path(__file__).resolve().parents[4]


def test_the_node_in_its_repository() -> None:
    """Passes where those tests do; skipped where the package was copied out of its repository."""
    tests = REPOSITORY / "tests" / "ros2_ws"
    if not tests.is_dir():
        raise SkipTest(f"{tests} is not there: the package was copied out of its repository")
    command = [sys.executable, "-m", "pytest", "-q", str(tests)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
