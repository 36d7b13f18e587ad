"""The comparison behind docs/quantization.md: paired, resumed where it stopped, and silent where nothing is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.quantization.page import Row
from benchmarks.quantization.plot import pareto_svg
from benchmarks.quantization.scenes import CHUNK, Chunk, Seen, beside, chunks_of, load_seen, measure
from engines.evaluation.sensitivity.outcomes import Reported, Traced


def reports(true, found):
    return [Reported(int(t), int(f), False, 0, 0.0) for t, f in zip(true, found, strict=True)]


def drawn(share_wrong, scenes=400):
    """Scenes with one class each, some of which are not reported."""
    rng = np.random.default_rng(3)
    true = 1 << rng.integers(0, 5, scenes)
    return true, np.where(rng.random(scenes) < share_wrong, 0, true)


def test_a_bundle_beside_itself_gains_nothing():
    same = reports(*drawn(0.3))

    found = beside(same, same)

    assert (found.gained_f1, found.low, found.high, found.changed) == (0, 0, 0, 0)


def test_what_is_much_worse_is_worse_beyond_chance():
    true, found = drawn(0.2)
    worse = np.where(np.arange(len(true)) % 10 == 0, 0, found)

    result = beside(reports(true, worse), reports(true, found))

    assert result.low < result.gained_f1 < result.high < 0
    assert result.changed == pytest.approx((worse != found).mean())


def test_a_change_for_better_and_one_for_worse_are_no_gain_that_is_known():
    true, found = drawn(0.2)
    changed = found.copy()
    missed, hit = np.flatnonzero(found == 0)[:3], np.flatnonzero(found)[:3]
    changed[missed], changed[hit] = true[missed], 0

    result = beside(reports(true, changed), reports(true, found))

    assert result.low < 0 < result.high
    assert result.changed == pytest.approx(6 / len(true))
    assert (result.nearer, result.further) == (3, 3)


def test_any_beginning_of_the_chunks_has_its_share_of_both_sets():
    chunks = list(chunks_of(400, 200))

    assert len(chunks) == len(set(chunks)) == 15
    assert sum(chunk.conditions == "hard" for chunk in chunks[:6]) == 4


def line(chunk, bundle, found):
    rows = {"reports": [[1, found, True, 0, 0.5]] * CHUNK, "traces": [[0.1, 0.2, 1, 0.0, 0.003]]}
    return json.dumps({"set": "hard", "chunk": chunk, "bundle": bundle, **rows}) + "\n"


def test_scenes_come_in_the_same_order_for_every_bundle_as_far_as_there_is_no_gap(tmp_path):
    path = tmp_path / "scenes.jsonl"
    path.write_text(line(1, "a", 1) + line(0, "b", 2) + line(0, "a", 0) + line(2, "b", 3))

    seen = load_seen(path)["hard"]

    assert [report.found for report in seen["a"].reports] == [0] * CHUNK + [1] * CHUNK
    assert [report.found for report in seen["b"].reports] == [2] * CHUNK
    assert seen["a"].traces[0] == Traced(0.1, 0.2, 1, 0.0, 0.003)
    assert seen["a"].result.hairline_recall == 0.5


def test_what_is_there_is_not_measured_again(tmp_path):
    path = tmp_path / "scenes.jsonl"
    path.write_text(line(0, "a", 1))

    measure({"a": tmp_path / "no-bundle"}, "a", [Chunk("hard", 0)], path, processes=1)

    assert path.read_text() == line(0, "a", 1)


def test_the_plot_leaves_out_what_is_float16_in_all():
    def row(name, size, divergence):
        return Row(name, size, 1, Seen(reports([1], [1]), [Traced(0, 0, 0, 0, divergence)]), Seen())

    drawing = pareto_svg([row("fp16", 100, 0.0), row("coarse", 40, 0.1), row("auto, small", 50, 0.01)])

    assert "fp16" not in drawing
    assert drawing.count("<circle") == 2
