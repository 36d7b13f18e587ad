"""What a Jetson draws and in which power mode it is, from where its kernel and nvpmodel put that; sets nothing.

An INA3221 on the board measures its rails; the one labelled VDD_IN is all that the module draws.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SENSORS = ("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221x/*/hwmon/hwmon*")
_TOTAL = "VDD_IN"
_MODE_NUMBER = "var/lib/nvpmodel/status"  # pmode:0002
_MODE_NAMES = "etc/nvpmodel.conf"  # < POWER_MODEL ID=2 NAME=15W >


@dataclass(frozen=True)
class Power:
    """One reading; what the machine does not tell is None."""

    watts: float | None = None  # of the whole module
    mode: str | None = None  # by its name, or its number where it has none


def read_power(root: Path = Path("/")) -> Power:
    """What the machine tells now; ``root`` is where its file tree starts."""
    return Power(_watts(root), _mode(root))


def _watts(root: Path) -> float | None:
    for label in (label for pattern in _SENSORS for label in root.glob(f"{pattern}/in*_label")):
        with suppress(OSError, ValueError):  # a rail that is off, or that only root may read
            if label.read_text().strip() == _TOTAL:
                channel = label.name.removeprefix("in").removesuffix("_label")
                millivolts = int((label.parent / f"in{channel}_input").read_text())
                milliamperes = int((label.parent / f"curr{channel}_input").read_text())
                return millivolts * milliamperes / 1e6
    return None


def _mode(root: Path) -> str | None:
    with suppress(OSError):
        status = (root / _MODE_NUMBER).read_text()
        if found := re.search(r"pmode:(\d+)", status):
            number = str(int(found[1]))
            with suppress(OSError):
                names: dict[str, str] = dict(
                    re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", (root / _MODE_NAMES).read_text())
                )
                return names.get(number, number)
            return number
    return None
