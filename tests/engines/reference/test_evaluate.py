"""The evaluation as a command: a table of measured numbers, or one line that says why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engines.reference.renderer.scenes import AS_TRAINED, HARD, render_scene
from engines.reference.scores import evaluate, table

ROOT = Path(__file__).parents[3]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "engines.reference.evaluate", *arguments]


def test_bundles_stand_side_by_side_in_one_table(tiny_bundle, tiny_int4_bundle):
    bundles = [str(tiny_bundle), str(tiny_int4_bundle)]
    results = evaluate(bundles, 3, lambda numbers: numbers)
    lines = table(results).splitlines()
    assert lines[0] == f"| | {tiny_bundle} | {tiny_int4_bundle} |"
    assert {line.count("|") for line in lines} == {4}
    assert [scores.scenes for scores in results.values()] == [3, 3]


def test_scores_are_printed_as_json_where_that_is_asked_for(tiny_bundle):
    asked = command(str(tiny_bundle), "--scenes", "2", "--json")
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert json.loads(ended.stdout)[str(tiny_bundle)]["scenes"] == 2
    assert ended.stderr == ""


def test_hard_scenes_are_rendered_where_they_are_asked_for(monkeypatch, tiny_bundle):
    asked = []

    def rendered(seed, conditions):
        asked.append(conditions)
        return render_scene(seed, conditions=conditions)

    monkeypatch.setattr("engines.reference.scores.render_scene", rendered)
    for hard in (True, False):
        evaluate([str(tiny_bundle)], 1, lambda numbers: numbers, hard)
    assert asked == [HARD, AS_TRAINED]


def test_hard_photographs_there_are_none():
    ended = subprocess.run(
        command("nowhere", "--photos", "folder", "--hard"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 2
    assert "--hard is about rendered scenes; drop it, or --photos" in ended.stderr


def test_a_missing_bundle_is_one_line():
    ended = subprocess.run(
        command("nowhere", "--scenes", "2"), capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("evaluate: there is no bundle directory nowhere; ")
    assert ended.stderr.count("\n") == 1
