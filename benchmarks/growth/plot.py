"""Points and the straight line through them, as panels of one SVG; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT, _COLUMNS = 300, 220, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 30, 44
_STRAIGHT = 0.15  # the most that a straight line may bend; a parabola that begins level bends by 0.25
_FLAT = 0.05  # by how much what should not grow may differ from its mean


@dataclass(frozen=True)
class Panel:
    """What was measured against one quantity; it should be a straight line, or ``is_flat``: no change at all."""

    title: str
    across: str
    up: str
    points: Sequence[tuple[float, float]]
    is_flat: bool = False

    @property
    def line(self) -> tuple[float, float]:
        """Slope and height at 0 of the line of least squares."""
        xs, ys = np.transpose(self.points)
        slope, start = np.polyfit(xs, ys, 1)
        return float(slope), float(start)

    @property
    def bend(self) -> float:
        """How far a parabola through the points leaves the line halfway, over the line's rise: 0.25 of a square."""
        xs, ys = np.transpose(self.points)
        half = np.ptp(xs) / 2
        curvature, _, _ = np.polyfit(xs, ys, 2)
        return float(abs(curvature) * half**2 / abs(2 * self.line[0] * half))

    @property
    def is_crooked(self) -> bool:
        """Whether it is another curve than it should be."""
        if self.is_flat:
            _, ys = np.transpose(self.points)
            return bool(np.ptp(ys) > _FLAT * ys.mean())
        return self.bend > _STRAIGHT

    @property
    def verdict(self) -> str:
        """What was found, in a line of text."""
        slope, start = self.line
        line = f"{start:.4g} {self.up} + {slope:.4g} by {self.across}, bend {self.bend:.2f}"
        complaint = "  NOT AS IT SHOULD BE" if self.is_crooked else ""
        return f"{self.title}: {'flat' if self.is_flat else line}{complaint}"


def panels_svg(panels: Sequence[Panel]) -> str:
    """All panels, in rows of three."""
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        parts += [f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    xs, ys = np.transpose(panel.points)
    slope, start = panel.line
    widest, highest = float(xs.max()), 1.1 * float(ys.max())

    def place(x: float, y: float) -> str:
        across = _LEFT + x / widest * (_WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f} {_HEIGHT - _BOTTOM - y / highest * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    foot, middle = _HEIGHT - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">{panel.title}, {panel.up}</text>',
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{panel.across}</text>',
        f'<path d="M{_LEFT} {_TOP}V{foot}H{_WIDTH - _RIGHT}" fill="none" stroke="#999"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = place(share * widest, share * highest).split()
        parts.append(f'<text x="{x}" y="{foot + 14}" text-anchor="middle">{share * widest:.4g}</text>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(y) + 3:.0f}" text-anchor="end">{share * highest:.4g}</text>')
    parts.append(f'<path d="M{place(0, max(start, 0))}L{place(widest, start + slope * widest)}" stroke="#c0392b"/>')
    for point_x, point_y in panel.points:
        x, y = place(point_x, point_y).split()
        parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="#2c3e50"/>')
    return parts
