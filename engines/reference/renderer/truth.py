"""What a perfect report says of a rendered scene: the severity rule, the words, the action; draws nothing.

The rule is judged by what the frame shows, at the stand-off it was taken from:

| class | minor | moderate | severe | critical |
|---|---|---|---|---|
| crack | hairline | fine | wide | wide, with a box diagonal over 0.7 of the frame's |
| corrosion | under 2 % of the frame's area | under 8 % | under 20 % | more |
| spalling | under 1.5 % | under 6 % | under 14 % | more |
| exposed_rebar | | under 5 % | under 12 % | more |
| efflorescence | under 4 % | under 12 % | more | |

Widths of cracks are those of ``defects.CRACK_WIDTHS``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import ACTIONS, SEVERITIES, Finding, Region

# Upper bounds of the area share, one a severity.
_AREA_BOUNDS = {
    "corrosion": (0.02, 0.08, 0.20),
    "spalling": (0.015, 0.06, 0.14),
    "exposed_rebar": (0.0, 0.05, 0.12),
    "efflorescence": (0.04, 0.12, np.inf),
}
_CRACK_SEVERITY = {"hairline": "minor", "fine": "moderate", "wide": "severe"}
_CRITICAL_CRACK_DIAGONAL = 0.7
_MIN_PIXELS_SHARE = {"crack": 3e-4}
_MIN_PIXELS_SHARE_DEFAULT = 8e-4


def finding_from_mask(
    defect_class: str, mask: NDArray[np.bool_], facts: Mapping[str, str], surface: str
) -> Finding | None:
    """The finding for the pixels of ``mask`` (H, W), or None where too little of the defect shows."""
    share = float(mask.mean())
    if share < _MIN_PIXELS_SHARE.get(defect_class, _MIN_PIXELS_SHARE_DEFAULT):
        return None
    region = region_from_mask(mask)
    severity = severity_of(defect_class, share, region, facts)
    return Finding(
        defect_class=defect_class,
        severity=severity,
        region=region,
        confidence=1.0,
        description=describe(defect_class, severity, facts, surface),
        action=ACTIONS[SEVERITIES.index(severity)],
    )


def region_from_mask(mask: NDArray[np.bool_]) -> Region:
    """The box that holds all but the outermost half percent of the pixels on each side."""
    x_min, x_max = _bounds(mask.sum(0))
    y_min, y_max = _bounds(mask.sum(1))
    return Region(x_min, y_min, x_max, y_max)


def _bounds(counts: NDArray[np.integer]) -> tuple[float, float]:
    total = np.cumsum(counts)
    first = int(np.searchsorted(total, 0.005 * total[-1], side="right"))
    last = int(np.searchsorted(total, 0.995 * total[-1], side="left"))
    return first / len(counts), (last + 1) / len(counts)


def severity_of(defect_class: str, share: float, region: Region, facts: Mapping[str, str]) -> str:
    """The rule in this module's table; ``share`` is the part of the frame's area that the defect covers."""
    if defect_class == "crack":
        diagonal = float(np.hypot(region.x_max - region.x_min, region.y_max - region.y_min)) / np.sqrt(2)
        severity = _CRACK_SEVERITY[facts["width"]]
        return "critical" if severity == "severe" and diagonal > _CRITICAL_CRACK_DIAGONAL else severity
    bounds = _AREA_BOUNDS[defect_class]
    return SEVERITIES[sum(share >= bound for bound in bounds)]


_EXTENTS = {"minor": "small", "moderate": "medium", "severe": "large", "critical": "very large"}


def describe(defect_class: str, severity: str, facts: Mapping[str, str], surface: str) -> str:
    """One short line that names only what can be seen."""
    if defect_class == "crack":
        return f"{facts['width']} {facts['direction']} crack in {surface}"
    extent = _EXTENTS[severity]
    if defect_class == "exposed_rebar":
        return f"{extent} cavity with {facts['bars']} exposed in {surface}"
    return {
        "corrosion": f"{extent} area of corrosion on {surface}",
        "spalling": f"{extent} area of spalling in {surface}",
        "efflorescence": f"{extent} white deposit on {surface}",
    }[defect_class]
