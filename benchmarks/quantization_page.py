"""What the page on quantization says: tables, plot and words from numbers that were measured; measures nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.budget import format_bytes
from engines.reference.scores import Scores
from engines.sensitivity.groups import WeightGroup
from engines.sensitivity.journal import Journal
from engines.sensitivity.table import alone, component_table, sensitivity_table
from engines.sensitivity.treatments import DEFAULT_TREATMENTS
from engines.solver.auto import AutoPlan

PLOT_NAME = "quantization-pareto.svg"
HAZE = 0.4  # of the contrast
TRACED = 32  # scenes of which the choice of every token is compared


@dataclass(frozen=True)
class Row:
    """A bundle, and what became of the scenes."""

    name: str
    weight_bytes: int  # of the components' files
    memory_bytes: int  # the ledger's total
    divergence: float  # nats a token
    clear: Scores
    hazy: Scores


def page(
    rows: Sequence[Row],
    autos: Mapping[str, AutoPlan],
    journal: Journal,
    groups: Sequence[WeightGroup],
    peers: Sequence[str],
) -> str:
    """The whole page, as Markdown; ``peers`` are the lines about public implementations."""
    exam = journal.binding
    return "\n".join(
        [
            "# What precision costs",
            "",
            "Made by `python -m benchmarks.quantization docs/quantization.jsonl` from what",
            "`edge-engines sensitivity engines/reference/checkpoint --out docs/quantization.jsonl` measured. Nothing",
            "below is typed in by hand but the words.",
            "",
            "## Recipes",
            "",
            f"{rows[0].clear.scenes} scenes that nothing was trained, calibrated or chosen on, each as rendered and at",
            f"{HAZE:.0%} of its contrast. Bytes are those of the bundle's files; memory is the ledger's total on ONNX",
            "Runtime, where process and frame are 220 MB of it. Divergence is how far the next token's choice moves",
            f"from float16's, in nats a token, on {TRACED} more scenes.",
            "",
            recipe_table(rows),
            "",
            f"![Accuracy against bytes]({PLOT_NAME})",
            "",
            *verdict(rows, autos),
            "",
            *peers,
            "",
            "## Which parts need their bits",
            "",
            f"Every group of matrices alone, the rest at float16, on {exam['scenes']} other scenes; "
            f"{exam['traced']} of them token by token:",
            "by how much the choice of the next token moves, in nats a thousand tokens. `rtn` is rounding to nearest,",
            "`nf4` bitsandbytes' type.",
            "",
            sensitivity_table(journal, groups, DEFAULT_TREATMENTS),
            "",
            "## By component",
            "",
            "The same added up, in nats a token, for a million parameters each: what bits are worth where.",
            "",
            component_table(journal, groups, DEFAULT_TREATMENTS, "logits_divergence", per_million=True),
            "",
            "And by task, all of a component's groups together: macro-F1 lost (defect classification), and overlap of",
            "words with the true descriptions lost (captioning). Below 0.03, that is one scene.",
            "",
            component_table(journal, groups, DEFAULT_TREATMENTS, "macro_f1"),
            "",
            component_table(journal, groups, DEFAULT_TREATMENTS, "caption_overlap"),
            "",
            *positions(journal, groups),
            "",
            "## What the solver chose",
            "",
            "Forecasts add up what groups cost alone, on the scenes of the sensitivity study.",
            "",
            *(line for name, auto in autos.items() for line in (f"**{name}**", "", auto.table(), "")),
            *additivity(journal),
            "",
        ]
    )


def recipe_table(rows: Sequence[Row]) -> str:
    """A recipe a row."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("bytes", lambda row: format_bytes(row.weight_bytes)),
        ("memory", lambda row: format_bytes(row.memory_bytes)),
        ("divergence", lambda row: f"{row.divergence:.5f}"),
        ("macro-F1", lambda row: f"{row.clear.macro_f1:.3f}"),
        ("in haze", lambda row: f"{row.hazy.macro_f1:.3f}"),
        ("hairline recall", lambda row: f"{row.clear.hairline_recall:.3f}"),
        ("in haze", lambda row: f"{row.hazy.hairline_recall:.3f}"),
        ("corrosion missed", lambda row: f"{row.clear.corrosion_missed:.3f}"),
        ("false alarms", lambda row: f"{row.clear.false_alarms_distractors:.3f}"),
        ("severity exact", lambda row: f"{row.clear.severity_exact:.3f}"),
        ("median ms", lambda row: f"{row.clear.median_ms:.0f}"),
    ]
    lines = ["| recipe | " + " | ".join(name for name, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {row.name} | " + " | ".join(read(row) for _, read in columns) + " |" for row in rows]
    return "\n".join(lines)


def verdict(rows: Sequence[Row], autos: Mapping[str, AutoPlan]) -> list[str]:
    """What the table says, in words."""
    by_name = {row.name: row for row in rows}
    wide, plain = by_name["fp16"], by_name["asymmetric-int4"]
    methods = [row for row in rows if row.name.startswith("asymmetric-int4")]
    best = min(methods, key=lambda row: row.divergence)
    auto = by_name["auto, memory of asymmetric-int4"]
    dominated = [
        (row.name, other.name)
        for row in rows
        if row.name.startswith("auto")
        for other in rows
        if not other.name.startswith("auto")
        and other.memory_bytes <= row.memory_bytes
        and other.divergence < row.divergence
    ]
    forecasts = [
        100
        * abs(by_name[name].clear.macro_f1 - wide.clear.macro_f1 - plan.forecasts[0].macro_f1 + plan.untouched.macro_f1)
        for name, plan in autos.items()
    ]
    return [
        f"- On {wide.clear.scenes} scenes a macro-F1 is known to about 0.02. Recipes that lie nearer to each other are "
        "tied in it; divergence tells them apart.",
        f"- The nearest 4-bit decoder is that of `{best.name}`: divergence {best.divergence:.5f}, where rounding to "
        f"nearest has {plain.divergence:.5f}; it keeps {best.clear.macro_f1 / wide.clear.macro_f1:.1%} of float16's "
        f"macro-F1 ({best.hazy.macro_f1 / wide.hazy.macro_f1:.1%} in haze).",
        f"- `auto` in the memory of `asymmetric-int4`: divergence {auto.divergence:.5f} against "
        f"{plain.divergence:.5f}, macro-F1 {auto.clear.macro_f1:.3f} against {plain.clear.macro_f1:.3f}, in haze "
        f"{auto.hazy.macro_f1:.3f} against {plain.hazy.macro_f1:.3f}.",
        "- " + "; ".join(f"`{one}` is dominated by `{other}`" for one, other in dominated)
        if dominated
        else "- No recipe that takes as little memory as an `auto` is nearer to float16 than it.",
        f"- The solver's forecast of macro-F1 was off by {max(forecasts):.1f} points at most.",
    ]


def positions(journal: Journal, groups: Sequence[WeightGroup]) -> list[str]:
    """Where this agrees with the two published positions."""
    lines = [
        "One published position keeps the eyes out of 4 bits, as a damaged feature is unrecoverable; the other finds",
        "eyes and speech to matter about equally in spite of their sizes. Here, by how much the choice of the next",
        "token moves (nats a token, groups added up; in brackets for a million parameters):",
        "",
    ]
    for treatment in (t for t in DEFAULT_TREATMENTS if t.bits < 8 and t.method in ("rtn", "gptq")):
        lost = alone(journal, groups, [treatment], "logits_divergence")
        worth = {}
        for kind in ("vision_encoder", "decoder"):
            members = [group for group in groups if group.component == kind]
            total = sum(sum(lost[group.name].values()) for group in members)
            worth[kind] = (total, 1e6 * total / sum(group.parameters for group in members))
        (eyes, eyes_million), (speech, speech_million) = worth["vision_encoder"], worth["decoder"]
        which = (
            "the eyes weigh more" if eyes > 2 * speech else "speech weighs more" if speech > 2 * eyes else "about equal"
        )
        found = f"eyes {eyes:.4f} ({eyes_million:.4f}), speech {speech:.4f} ({speech_million:.4f})"
        lines.append(f"- `{treatment}`: {found}: {which}")
    return lines


def additivity(journal: Journal) -> list[str]:
    """How well the harms of groups add up, on plans that were measured whole."""
    single = {}
    for key, result in journal.results.items():
        treated = json.loads(key)
        if len(treated) == 1:
            single[next(iter(treated.items()))] = result.logits_divergence
    pairs = []
    for key, result in journal.results.items():
        treated = json.loads(key)
        if len(treated) > 1 and all(item in single for item in treated.items()):
            pairs.append((sum(single[item] for item in treated.items()), result.logits_divergence))
    if len(pairs) < 3:
        return []
    expected, found = np.log(np.maximum(np.array(pairs).T, 1e-9))
    ratio = np.exp(np.median(found - expected))
    return [
        f"Harms of {len(pairs)} random plans beside the sum of their groups' own: correlation of the logarithms "
        f"{np.corrcoef(expected, found)[0, 1]:.3f}, median ratio {ratio:.2f}.",
    ]


def pareto_svg(rows: Sequence[Row], width: int = 760, height: int = 420) -> str:
    """Divergence over the bytes of a bundle, on a logarithmic scale; those with float16 in all are left out."""
    points = [(row.name, row.weight_bytes / 1e6, row.divergence) for row in rows if row.divergence > 0]
    xs, ys = [x for _, x, _ in points], [np.log10(y) for _, _, y in points]
    left, right, top, bottom = 70, 250, 20, 50

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - min(xs)) / (max(xs) - min(xs) or 1)
        up = (np.log10(y) - min(ys)) / (max(ys) - min(ys) or 1)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2 - right / 2}" y="{height - 10}" text-anchor="middle">MB of the bundle</text>',
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">'
        "divergence from float16, nats a token</text>",
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
        colour = "#c0392b" if name.startswith("auto") else "#2c3e50"
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{across + 7:.1f}" y="{down + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
