"""The plot of docs/quantization.md: how far bundles are from float16, over their bytes; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.quantization.page import Row


def pareto_svg(rows: Sequence[Row], width: int = 760, height: int = 420) -> str:
    """Divergence over the bytes of a bundle, on a logarithmic scale; those with float16 in all are left out."""
    found = [(row.name, row.weight_bytes / 1e6, row.hard.result.logits_divergence) for row in rows]
    points = [point for point in found if point[2] > 0]
    xs, ys = [x for _, x, _ in points], [np.log10(y) for _, _, y in points]
    left, right, top, bottom = 70, 250, 20, 50

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - min(xs)) / (max(xs) - min(xs) or 1)
        up = (np.log10(y) - min(ys)) / (max(ys) - min(ys) or 1)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    without_format = {row.name for row in rows if row.memory_bytes is None}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2 - right / 2}" y="{height - 10}" text-anchor="middle">MB of the bundle</text>',
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">'
        "divergence from float16, nats an unforced token</text>",
    ]
    for exponent in range(int(np.floor(min(ys))), int(np.ceil(max(ys))) + 1):
        if min(ys) <= exponent <= max(ys):
            _, y = place(xs[0], 10.0**exponent)
            parts.append(f'<path d="M{left} {y:.0f}H{width - right}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{10.0**exponent:g}</text>')
    for x in np.linspace(min(xs), max(xs), 5):
        across, _ = place(float(x), points[0][2])
        parts.append(f'<text x="{across:.0f}" y="{height - bottom + 18}" text-anchor="middle">{x:.1f}</text>')
    for name, x, y in points:
        across, down = place(x, y)
        colour = "#c0392b" if name.startswith("auto") else "#95a5a6" if name in without_format else "#2c3e50"
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{across + 7:.1f}" y="{down + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
