"""The node's parameters: what each means, which values it may have, and when it may change; knows no topic.

A parameter is read ``always``, by ``configure`` or by ``activate``. One that was read is refused a new value until the
node is back in a state from which it would be read again, with a reason that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from edge_runtime.memory.plan import parse_bytes
from edge_runtime.reports.report import Region
from edge_runtime.reports.schema import SHIPPED, load_schema
from edge_runtime.stream.change_gate import DEFAULT_THRESHOLD, GateRule
from edge_runtime.stream.loop import Rules
from edge_runtime.stream.tiling import Tiling

_MOST_TILES = 16  # a side
_TOPIC = re.compile(r"(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)

TRANSPORTS = ("raw", "compressed")
CONFIGURE, ACTIVATE, ALWAYS = "configure", "activate", "always"  # when a parameter is read


@dataclass(frozen=True)
class Setting:
    """One parameter; ``limits`` are its least and greatest value, ``check`` raises ValueError where it is nonsense."""

    name: str
    default: Any
    description: str
    read_by: str = ALWAYS
    limits: tuple[float, float] | None = None
    check: Callable[[Any], None] = lambda value: None

    @property
    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` tells."""
        when = "" if self.read_by == ALWAYS else f" Read by {self.read_by}."
        descriptor = ParameterDescriptor(description=self.description + when)
        if self.limits is not None and isinstance(self.default, int):
            low, high = map(int, self.limits)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        elif self.limits is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.limits[0], to_value=self.limits[1])]
        return descriptor


def _check_budget(text: str) -> None:
    if text:
        parse_bytes(text)


def check_transport(name: str) -> None:
    """Raise ValueError where there is no such ``image_transport``."""
    if name not in TRANSPORTS:
        raise ValueError(f"image_transport is {name!r}; set one of {', '.join(TRANSPORTS)}")


def _check_cameras(names: Sequence[str]) -> None:
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"cameras is {list(names)}; name one topic or more, each once")
    for name in names:
        if not _TOPIC.fullmatch(name):
            raise ValueError(
                f"cameras holds {name!r}, which is no topic; between slashes, write letters, digits and underscores, "
                "no digit first"
            )


def _check_schema(name: str) -> None:
    if name:
        load_schema(name)


def _check_region(corners: Sequence[float]) -> None:
    if len(corners) == 4:
        x_min, y_min, x_max, y_max = corners
        if 0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1:
            return
    raise ValueError(f"region is {list(corners)}; give x_min, y_min, x_max, y_max from 0 to 1")


def _check_tiles(counts: Sequence[int]) -> None:
    if len(counts) != 2 or not all(1 <= count <= _MOST_TILES for count in counts):
        raise ValueError(f"tiles is {list(counts)}; give columns and rows, each from 1 to {_MOST_TILES}")


def _check_bits(count: int) -> None:
    if 0 < count < 8:
        raise ValueError(f"significant_bits is {count}; give 8 to 16, or 0 to find out")


def _check_finite(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number to reckon with; set a finite one")


SETTINGS = (
    Setting("bundle", "", "Folder of the engine bundle.", CONFIGURE),
    Setting(
        "schema",
        "",
        f"What to report on: {', '.join(SHIPPED)}, or a YAML file; empty for what the bundle was built for.",
        CONFIGURE,
        check=_check_schema,
    ),
    Setting(
        "budget",
        "",
        "Memory that the bundle may take: 2GB, 512MiB; empty for all that is available.",
        CONFIGURE,
        check=_check_budget,
    ),
    Setting(
        "max_report_tokens",
        256,
        "Length limit of one report; a longer one is cut after its last complete finding.",
        CONFIGURE,
        limits=(8, 4096),
    ),
    Setting("autostart", False, "Configure and activate as soon as the node is there.", "the start of the process"),
    Setting("cameras", ["image"], "Topics of the cameras.", ACTIVATE, check=_check_cameras),
    Setting(
        "priorities",
        [0],
        "Of the cameras, in their order; the highest with a new frame is served, equals in turn. Missing ones are 0.",
        ACTIVATE,
    ),
    Setting(
        "image_transport",
        "raw",
        "raw subscribes to each camera's topic, compressed to TOPIC/compressed.",
        ACTIVATE,
        check=check_transport,
    ),
    Setting(
        "significant_bits",
        0,
        "How many bits of 16-bit pixels the cameras fill, 8 to 16; 0 finds out, and refuses frames that leave it open.",
        ACTIVATE,
        limits=(0, 16),
        check=_check_bits,
    ),
    Setting(
        "region",
        [0.0, 0.0, 1.0, 1.0],
        "Part of the frame that is looked at: x_min, y_min, x_max, y_max, in fractions of it.",
        check=_check_region,
    ),
    Setting(
        "tiles",
        [1, 1],
        "Columns and rows in which a large frame is looked at, each as long as a frame takes.",
        check=_check_tiles,
    ),
    Setting("question", "", "Put to the model about every frame, beside its standing task."),
    Setting("deadline_s", 0.0, "A report that takes longer is cut; 0 for no deadline.", limits=(0.0, 3600.0)),
    Setting("max_rate_hz", 0.0, "Inspections a second at most; 0 for as many as can be.", limits=(0.0, 240.0)),
    Setting(
        "skip_below",
        DEFAULT_THRESHOLD,
        "Frames that changed less than this since the last inspection are skipped; 0 skips none.",
        limits=(0.0, 4.0),
    ),
    Setting("refresh_s", 5.0, "A camera goes no longer without an inspection than this.", limits=(0.0, 3600.0)),
    Setting(
        "stale_after_s", 2.0, "Silence of the cameras after which diagnostics call them stale.", limits=(0.1, 3600.0)
    ),
    Setting(
        "stuck_after_s",
        60.0,
        "An inspection that takes longer is left behind, and the bundle opened anew; 0 waits for ever.",
        limits=(0.0, 3600.0),
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def declare_settings(node: Node) -> None:
    """Declare every parameter; those of the wrong type or out of range are refused by rclpy, with an exception."""
    for setting in SETTINGS:
        node.declare_parameter(setting.name, setting.default, setting.descriptor)


def check_setting(name: str, value: Any) -> None:
    """Raise ValueError, with what to set instead, where ``value`` makes no sense."""
    if name in _BY_NAME:
        if value is None:
            raise ValueError(f"{name} has no value; give it one, or leave it out")
        if isinstance(value, float):
            _check_finite(value)
        _BY_NAME[name].check(value)


def refusal(name: str, value: Any, is_configured: bool, is_active: bool) -> str:
    """Why the parameter cannot be ``value`` now; empty where it can."""
    read_by = _BY_NAME[name].read_by if name in _BY_NAME else ALWAYS
    if read_by == CONFIGURE and is_configured:
        return f"{name} is read by configure: deactivate and clean the node up, then set it"
    if read_by == ACTIVATE and is_active:
        return f"{name} is read by activate: deactivate the node, then set it"
    try:
        check_setting(name, value)
    except ValueError as error:
        return str(error)
    return ""


def rules_from(value: Callable[[str], Any]) -> Rules:
    """How frames are to be chosen and asked about, by the parameters that ``value`` gives."""
    rate_hz = value("max_rate_hz")
    return Rules(
        gate=GateRule(value("skip_below"), value("refresh_s")),
        tiling=Tiling(Region(*value("region")), *value("tiles")),
        question=value("question"),
        deadline_s=value("deadline_s") or None,
        period_s=1 / rate_hz if rate_hz else 0.0,
    )
