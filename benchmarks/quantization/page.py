"""What the page on quantization says: tables and words from numbers that were measured; measures nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.quantization.scenes import Seen, beside
from edge_runtime.memory.plan import format_bytes
from engines.evaluation.sensitivity.groups import WeightGroup
from engines.evaluation.sensitivity.journal import Journal
from engines.evaluation.sensitivity.table import component_table, sensitivity_table
from engines.evaluation.sensitivity.weight_quantization import DEFAULT_QUANTIZATIONS
from engines.evaluation.solver.auto import AutoPlan

PLOT_NAME = "quantization-pareto.svg"


@dataclass(frozen=True)
class Row:
    """A bundle, and what became of the scenes."""

    name: str
    weight_bytes: int  # of the components' files
    memory_bytes: int | None  # the memory plan's total; None where no engine has the format
    hard: Seen
    plain: Seen


Column = tuple[str, Callable[[Row], str]]


def page(
    rows: Sequence[Row],
    fewer: Sequence[Row],
    autos: Mapping[str, AutoPlan],
    journal: Journal,
    groups: Sequence[WeightGroup],
    peers: Sequence[str],
) -> str:
    """The whole page, as Markdown; ``fewer`` have bits without a format, ``peers`` are lines on other people's work."""
    wide = rows[0]
    hard, plain, traced = len(wide.hard.reports), len(wide.plain.reports), len(wide.hard.traces)
    studied, conditions = int(journal.binding["scenes"]), journal.binding.get("conditions", "as trained")
    solved = "\n\n".join(f"**{name}**\n\n{auto.table()}" for name, auto in autos.items())
    return f"""# What precision costs

Made by `python -m benchmarks.quantization docs/quantization.jsonl` from what `edge-engines sensitivity
engines/reference/checkpoint --scenes {studied} --out docs/quantization.jsonl` measured. Nothing below is typed in by
hand but the words.

## Recipes

The reference inspector is sure of most scenes that are like those it was trained on, and there recipes tie. So scenes
come twice: {plain} *as trained*, and {hard} *hard* ones (`HARD` in the renderer's `scenes.py`): defects at 55 % of
their contrast and 65 % of their size, four of five cracks hairlines, up to three shadows, stains or joints in each,
twice the noise. Nothing was trained, calibrated or chosen on any of them; all bundles see the same.

{recipe_table(rows, wide, "hard")}

Bytes are those of the bundle's files; memory is the memory plan's total on ONNX Runtime, where process and frame are
200 MB of it. An *unforced* token is one of the true answer at which the report's grammar leaves more than one; what a
model would write where it leaves one is never asked. *Divergence* is how far unforced tokens move from float16's
(Kullback-Leibler), in nats a thousand of them, and *question loss* what the right answers to "is there a crack?", "is
there corrosion?", ... cost, in nats a question; both on {traced} of the hard scenes. *Beside float16* is the macro-F1
gained, with the interval that holds 95 % of bootstrap samples of the scenes, drawn in pairs; *changed* is the share
of scenes in which other classes are reported than by float16; *nearer, further* are scenes whose classes come nearer
to the truth so, and scenes whose go further off. *Corrosion missed* is corrosion that is not reported: taken for
shadow, stain or paint. *Captions* is the overlap of words with true descriptions.

As trained:

{recipe_table(rows, wide, "plain")}

![Divergence over bytes]({PLOT_NAME})

{bullets(verdict(rows, autos))}

## Where it breaks

No engine has formats of 2 and 3 bits. Weights rounded to as many, and run at float16 on the hard scenes, show where
the model breaks; on the first {len(fewer[0].hard.reports)} of them. Bytes count a scale of 16 bits for every 128
weights.

{recipe_table(fewer, wide, "hard")}

{"".join(line + chr(10) for line in peers)}
## Which parts need their bits

Every group of matrices alone, the rest at float16, on {studied} other scenes ({conditions}): by how much unforced
tokens move, in nats a thousand. `rtn` is rounding to nearest, `nf4` bitsandbytes' type, and `/32` has blocks of 32.

{sensitivity_table(journal, groups, DEFAULT_QUANTIZATIONS)}

## By component and task

All groups of a component at once. By how much unforced tokens move, in nats, for a million parameters: what
bits are worth
where.

{component_table(journal, groups, DEFAULT_QUANTIZATIONS, "logits_divergence", per_million=True)}

Question answering: nats a question that the right answers cost more. The model was taught one prompt, and answers no
questions in words; but wherever a finding may begin, it decides whether each class that is left is in the scene, and
that is read from its logits, led along the true answer (`engines/evaluation/sensitivity/questions.py`).

{component_table(journal, groups, DEFAULT_QUANTIZATIONS, "question_loss")}

Captioning: overlap of words with the true descriptions lost. One scene of {studied} is {1 / studied:.2f}; what is less
is noise.

{component_table(journal, groups, DEFAULT_QUANTIZATIONS, "caption_overlap")}

Defect classification needs more scenes: it is in the tables further up.

## The two published positions

One keeps the vision encoder out of 4 bits, as a damaged feature is unrecoverable; the other finds vision encoder and
language model to matter about equally in spite of their sizes, by task and by method. Here:

{bullets(positions(rows, fewer, groups))}

## What the solver chose

Forecasts add up what groups cost alone, on the scenes of the sensitivity study.

{solved}

{additivity(journal)}
"""


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def recipe_table(rows: Sequence[Row], wide: Row, which: str) -> str:
    """A recipe a row; ``which`` is ``hard``, with what is known of bundles, or ``plain``."""

    def seen(row: Row) -> Seen:
        found: Seen = getattr(row, which)
        return found

    sizes: list[Column] = [
        ("bytes", lambda row: format_bytes(row.weight_bytes)),
        ("memory", lambda row: format_bytes(row.memory_bytes) if row.memory_bytes else "none"),
        ("divergence", lambda row: f"{1000 * seen(row).result.logits_divergence:.2f}"),
        ("question loss", lambda row: f"{seen(row).result.question_loss:.4f}"),
    ]
    shares: list[Column] = [
        ("macro-F1", lambda row: f"{seen(row).result.macro_f1:.3f}"),
        ("beside float16", lambda row: _interval(seen(row), seen(wide)) if row is not wide else ""),
        ("changed", lambda row: f"{beside(seen(row).reports, seen(wide).reports).changed:.1%}"),
        ("nearer, further", lambda row: _moved(seen(row), seen(wide)) if row is not wide else ""),
        ("hairline recall", lambda row: f"{seen(row).result.hairline_recall:.3f}"),
        ("corrosion missed", lambda row: f"{seen(row).result.corrosion_missed:.3f}"),
        ("hallucinated", lambda row: f"{seen(row).result.hallucinated:.3f}"),
        ("severity exact", lambda row: f"{seen(row).result.severity_exact:.3f}"),
        ("captions", lambda row: f"{seen(row).result.caption_overlap:.3f}"),
    ]
    columns = [*(sizes if which == "hard" else []), *shares]
    lines = ["| | " + " | ".join(name for name, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {row.name} | " + " | ".join(read(row) for _, read in columns) + " |" for row in rows]
    return "\n".join(lines)


def _interval(ours: Seen, theirs: Seen) -> str:
    found = beside(ours.reports, theirs.reports)
    return f"{found.gained_f1:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _moved(ours: Seen, theirs: Seen) -> str:
    found = beside(ours.reports, theirs.reports)
    return f"{found.nearer}, {found.further}"


def verdict(rows: Sequence[Row], autos: Mapping[str, AutoPlan]) -> list[str]:
    """What the tables say, in words."""
    by_name = {row.name: row for row in rows}
    wide, plain, auto = (by_name[n] for n in ("fp16", "asymmetric-int4", "auto, memory of asymmetric-int4"))
    methods = [row for row in rows if row.name.startswith("asymmetric-int4")]
    best = min(methods, key=_divergence)
    other = {row.name: beside(row.hard.reports, wide.hard.reports) for row in rows if row is not wide}
    apart = [f"`{name}` ({found.gained_f1:+.3f})" for name, found in other.items() if found.low > 0 or found.high < 0]
    hand = [row for row in rows if not row.name.startswith("auto")]
    dominated = [
        f"`{ours.name}` by `{theirs.name}`"
        for ours in rows
        if ours.name.startswith("auto")
        for theirs in hand
        if (theirs.memory_bytes or 0) <= (ours.memory_bytes or 0)
        and (_divergence(theirs) < _divergence(ours) or beside(theirs.hard.reports, ours.hard.reports).low > 0)
    ]
    forecasts = {
        name: 100 * (plan.forecasts[0].macro_f1 - plan.untouched.macro_f1 - other[name].gained_f1)
        for name, plan in autos.items()
    }
    worst = max(forecasts, key=lambda name: abs(forecasts[name]))
    sentences = [
        f"Apart from float16 in macro-F1 on hard scenes, by more than chance: {', '.join(apart)}."
        if apart
        else "In macro-F1 no recipe is apart from float16 by more than chance, hard as the scenes are; divergence and "
        "question loss, which see every token, tell recipes apart.",
        f"The nearest 4-bit decoder is that of `{best.name}`: divergence {_thousandths(best)}, where rounding to "
        f"nearest has {_thousandths(plain)}; it keeps {_kept(best.plain, wide.plain)} of float16's macro-F1 as "
        f"trained, {_kept(best.hard, wide.hard)} on hard scenes.",
        f"`auto` in the bytes of `asymmetric-int4`: divergence {_thousandths(auto)} against {_thousandths(plain)}, "
        f"other classes than float16's in {other[auto.name].changed:.1%} of hard scenes against "
        f"{other[plain.name].changed:.1%}, and a macro-F1 of {auto.hard.result.macro_f1:.3f} against "
        f"{plain.hard.result.macro_f1:.3f}: {_interval(auto.hard, plain.hard)}. Scenes in which it comes nearer to "
        f"the truth than `{plain.name}`, and in which it goes further off: {_moved(auto.hard, plain.hard)}.",
        "Dominated, in divergence or in macro-F1 by more than chance, by a recipe of no more memory: "
        + "; ".join(dominated)
        if dominated
        else "No recipe that takes as little memory as an `auto` has less divergence, or more macro-F1 beyond chance.",
    ]
    off = abs(forecasts[worst])
    return [
        *sentences,
        f"The solver's forecast of macro-F1 on hard scenes was off by {off:.1f} points at most (`{worst}`).",
    ]


def _thousandths(row: Row) -> str:
    return f"{1000 * _divergence(row):.2f}"


def _kept(ours: Seen, theirs: Seen) -> str:
    return f"{ours.result.macro_f1 / theirs.result.macro_f1:.1%}"


def _divergence(row: Row) -> float:
    return row.hard.result.logits_divergence


def positions(rows: Sequence[Row], fewer: Sequence[Row], groups: Sequence[WeightGroup]) -> list[str]:
    """Where this agrees with the two published positions."""
    wide = rows[0]
    found = {row.name: row for row in (*rows, *fewer)}
    sizes = {k: sum(g.parameters for g in groups if g.component == k) / 1e6 for k in ("vision_encoder", "decoder")}
    lines = []
    pairs = [("vision-only-int4", "asymmetric-int4", "4 bits, rounded to nearest")]
    for method, words in (("rtn2", "2 bits, rounded to nearest"), ("gptq2", "2 bits, by GPTQ")):
        pairs.append((f"vision_encoder, {method}", f"decoder, {method}", words))
    for encoder_name, language_name, words in pairs:
        encoder, language = found[encoder_name], found[language_name]
        lost = [beside(row.hard.reports, wide.hard.reports) for row in (encoder, language)]
        weights = [1000 * _divergence(row) for row in (encoder, language)]
        which = "the vision encoder weighs more" if weights[0] > 2 * weights[1] else "the language model weighs more"
        if max(weights) <= 2 * min(weights):
            which = "about equal"
        lines.append(
            f"{words}: divergence {weights[0]:.2f} with all of the vision encoder ({sizes['vision_encoder']:.1f} M "
            f"parameters), {weights[1]:.2f} with all of the decoder ({sizes['decoder']:.1f} M): {which}. Macro-F1 "
            f"beside float16 is "
            f"{lost[0].gained_f1:+.3f} and {lost[1].gained_f1:+.3f}, and other classes are reported in "
            f"{lost[0].changed:.1%} and {lost[1].changed:.1%} of hard scenes."
        )
    return lines


def additivity(journal: Journal) -> str:
    """How well the harms of groups add up, on plans that were measured whole."""
    single = {}
    for key, result in journal.results.items():
        quantized = json.loads(key)
        if len(quantized) == 1:
            single[next(iter(quantized.items()))] = result.logits_divergence
    pairs = []
    for key, result in journal.results.items():
        quantized = json.loads(key)
        if len(quantized) > 1 and all(item in single for item in quantized.items()):
            pairs.append((sum(single[item] for item in quantized.items()), result.logits_divergence))
    if len(pairs) < 3:
        return ""
    expected, found = np.log(np.maximum(np.array(pairs).T, 1e-9))
    ratio = np.exp(np.median(found - expected))
    return (
        f"Harms of {len(pairs)} plans that were measured whole beside the sum of their groups' own: correlation of the "
        f"logarithms {np.corrcoef(expected, found)[0, 1]:.3f}, median ratio {ratio:.2f}."
    )
