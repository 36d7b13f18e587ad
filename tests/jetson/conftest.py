"""What only hardware can show: collected where pycuda is, run by ``make prove-on-jetson``.

The tests that say ``simulated_jetson`` too run there as far as that goes, so that on a Jetson they fail for its sake
only. Figures of a real one go to ``out/prove-on-jetson.json``, and are printed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

OUT = Path("out/prove-on-jetson.json")
FIGURES = pytest.StashKey[dict[str, object]]()

collect_ignore_glob = [] if find_spec("pycuda") else ["test_*.py"]


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Iterator[dict[str, object]]:
    """What is measured, by what it is."""
    from tests.jetson.machine import is_simulated

    found: dict[str, object] = {}
    yield found
    if not is_simulated():
        pytestconfig.stash[FIGURES] = found
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(found, indent=2) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(FIGURES, {}):
        terminalreporter.section(f"measured, and written to {OUT}")
        for name, value in found.items():
            terminalreporter.write_line(f"{name}: {value}")
