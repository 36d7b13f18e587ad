"""Thresholds, curves and temperatures of what a bundle thinks of every class."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.evaluation.operating_points import Judged, judge, operating_point, pictures_of, temperature
from engines.reference.photographs import load_photographs
from tests.engines.reference.labelled_photos import write_checking_folder, write_training_folder

ROOT = Path(__file__).parents[3]


def judged(positive, negative):
    return [Judged("a", p, True) for p in positive] + [Judged("b", p, False) for p in negative]


def test_the_threshold_lets_one_in_twenty_of_the_others_through():
    point = operating_point(judged([0.5, 0.9, 0.99, 0.2], np.linspace(0, 0.6, 40)))
    assert point.false_alarms == 2 / 40
    assert point.recall == 0.5
    assert point.by_source == {"a, there": 0.5, "b, not there": 0.05}


def test_a_class_that_is_told_apart_is_found_without_a_false_alarm():
    point = operating_point(judged([0.3, 0.4], [0.1] * 10))
    assert (point.recall, point.false_alarms) == (1.0, 0.0)
    assert point.curve[-1] == (1.0, 1.0, 0.0, 0.3)


def test_precision_falls_along_the_curve_where_others_score_higher():
    point = operating_point(judged([0.9, 0.2], [0.5, 0.1]))
    assert point.curve[0][:3] == (0.5, 1.0, 0.0)
    assert point.curve[-1][:3] == (1.0, pytest.approx(2 / 3), 0.5)


def test_a_class_that_is_nowhere_has_no_operating_point():
    with pytest.raises(ValueError, match="in 0 of 2 pictures; give some with and some without"):
        operating_point(judged([], [0.1, 0.2]))


def test_probabilities_that_are_too_sure_are_tempered():
    there = np.arange(4000) % 5 > 0
    assert temperature(np.full(4000, 0.8), there) == pytest.approx(1.0, rel=0.1)
    assert temperature(np.full(4000, 0.99), there) == pytest.approx(np.log(99) / np.log(4), rel=0.1)


def test_faint_photographs_are_left_out_and_close_ups_come_with_their_photograph(tmp_path):
    write_training_folder(tmp_path / "training")
    write_checking_folder(tmp_path / "checking")
    faint = load_photographs(tmp_path / "training" / "train.txt")
    assert [picture.source for picture in pictures_of(faint)] == ["vt_corrosion"]
    drone = [photo for photo in load_photographs(tmp_path / "checking") if photo.source == "drone"]
    assert [picture.source for picture in pictures_of(drone)] == ["drone", *["drone, crack-free windows"] * 3]


def test_a_class_that_nobody_looked_for_is_not_judged(tiny_bundle, tmp_path):
    photos = load_photographs(write_training_folder(tmp_path))
    found = judge(tiny_bundle, pictures_of(photos))
    assert [each.there for each in found["crack"]] == [False, True]
    assert [each.there for each in found["spalling"]] == [False]
    assert all(0 <= each.probability <= 1 for each in found["crack"])


def test_each_class_is_a_line_of_json(tiny_bundle, tmp_path):
    write_training_folder(tmp_path)
    asked = [sys.executable, "-m", "engines.evaluation.operating_points", str(tiny_bundle), "--photos", str(tmp_path)]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    [line] = ended.stdout.splitlines()
    assert json.loads(line)["class"] == "crack"
    assert "spalling is in 0 of 1 pictures: no operating point" in ended.stderr
