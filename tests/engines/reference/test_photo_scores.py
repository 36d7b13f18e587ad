"""Reports beside what is known of photographs: what counts as found, as a false alarm, and as sure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.reports.report import Finding, InspectionReport, Region
from engines.reference.photo_scores import (
    Count,
    PhotoTally,
    calibration_error,
    crack_free_windows,
    evaluate_photos,
    photo_table,
)
from engines.reference.photographs import EVERYTHING, Box, Mask, Photograph, load_photographs
from tests.engines.reference.labelled_photos import write_checking_folder, write_training_folder

ROOT = Path(__file__).parents[3]
CRACK = frozenset({"crack"})
LEFT, RIGHT = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)


def report(*classes: str, region: Region = LEFT, confidence: float = 0.9) -> InspectionReport:
    findings = tuple(Finding(name, "minor", region, confidence, "", "monitor") for name in classes)
    return InspectionReport(findings=findings)


def tally_of(photo: Photograph, shown: InspectionReport, mask: np.ndarray | None = None) -> PhotoTally:
    tally = PhotoTally()
    tally.add(photo, mask, shown)
    return tally


def photo(shows=frozenset(), looked_for=EVERYTHING, **known) -> Photograph:
    return Photograph(Path("a.jpg"), "somewhere", shows, looked_for, **known)


def test_a_reported_crack_is_found_and_an_unreported_one_is_missed():
    cracked = photo(CRACK, CRACK)
    both = tally_of(cracked, report("crack")) + tally_of(cracked, report("spalling"))
    assert both.scores().crack_found == Count(1, 2)
    assert both.scores().corrosion_found == Count(0, 0)


def test_any_finding_on_an_undamaged_photograph_is_a_false_alarm():
    tally = tally_of(photo(), report("efflorescence")) + tally_of(photo(), report())
    assert tally.scores().false_alarms == Count(1, 2)


def test_a_photograph_that_was_looked_at_for_cracks_only_is_not_said_to_be_undamaged():
    scores = tally_of(photo(looked_for=CRACK), report("spalling")).scores()
    assert scores.false_alarms == Count(0, 0)
    assert scores.calibration_error is None


@pytest.mark.parametrize(("region", "met"), [(LEFT, 1), (RIGHT, 0)])
def test_a_box_meets_a_mask_where_it_holds_a_pixel_of_it(region, met):
    mask = np.zeros((8, 8), bool)
    mask[2, 3] = True
    cracked = photo(CRACK, CRACK, mask=Mask(Path("a.png"), "crack"))
    assert tally_of(cracked, report("crack", region=region), mask).scores().boxes_meet == Count(met, 1)


def test_a_box_around_everything_meets_the_mask_but_is_not_the_same():
    mask = np.zeros((8, 8), bool)
    mask[2, 3] = True
    cracked = photo(CRACK, CRACK, mask=Mask(Path("a.png"), "crack"))
    scores = tally_of(cracked, report("crack", region=Region(0, 0, 1, 1)), mask).scores()
    assert (scores.boxes_meet, scores.boxes_same) == (Count(1, 1), Count(0, 1))


def test_boxes_are_met_without_a_mask_too():
    cracked = photo(CRACK, CRACK, boxes=(Box("crack", LEFT, tight=False),))
    scores = (tally_of(cracked, report("crack")) + tally_of(cracked, report("crack", region=RIGHT))).scores()
    assert (scores.boxes_meet, scores.boxes_same) == (Count(1, 2), Count(1, 2))


def test_calibration_error_is_how_far_confidence_lies_from_the_share_that_is_right():
    assert calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False]) == pytest.approx(0.15)
    assert calibration_error([0.95, 0.15], [True, False]) == pytest.approx(0.1)
    assert calibration_error([1.0], [True]) == 0
    assert calibration_error([], []) is None


def test_windows_without_a_mask_pixel_are_cut_side_by_side():
    image, mask = np.zeros((512, 600, 3), np.uint8), np.zeros((512, 600), bool)
    mask[10, 10] = True
    assert [window.shape for window in crack_free_windows(image, mask)] == [(256, 256, 3)] * 3


def test_a_row_for_every_source_and_one_for_all(tiny_bundle, tmp_path):
    photos = load_photographs(write_checking_folder(tmp_path))
    rows = evaluate_photos([str(tiny_bundle)], photos, lambda each: each)[str(tiny_bundle)]
    assert list(rows) == ["caliterra_seq", "drone", "drone, crack-free windows", "quay", "rust", "all"]
    assert {name: scores.photos for name, scores in rows.items()} == {
        "caliterra_seq": 1,
        "drone": 1,
        "drone, crack-free windows": 3,
        "quay": 1,
        "rust": 1,
        "all": 7,
    }
    assert rows["all"].crack_found.whole == 2
    assert rows["all"].false_alarms.whole == 4


def test_faint_cracks_have_a_row_of_their_own(tiny_bundle, tmp_path):
    photos = load_photographs(write_training_folder(tmp_path) / "train.txt")
    rows = evaluate_photos([str(tiny_bundle)], photos, lambda each: each)[str(tiny_bundle)]
    assert list(rows) == ["vt_corrosion", "windows, faint", "all"]


def test_counts_stand_in_a_table_with_their_share():
    scores = {"here": tally_of(photo(CRACK, CRACK), report("crack")).scores()}
    assert photo_table({"bundle": scores}).splitlines()[-1] == "| here | 1 | 1/1 1.00 |  |  |  |  | 0.10 |"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "engines.reference.evaluate", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def test_photographs_are_scored_as_json_where_that_is_asked_for(tiny_bundle, tmp_path):
    ended = command(str(tiny_bundle), "--photos", str(write_training_folder(tmp_path)), "--json")
    assert ended.stderr == ""
    assert json.loads(ended.stdout)[str(tiny_bundle)]["plain"]["false_alarms"]["whole"] == 1


def test_a_folder_without_labels_is_one_line(tiny_bundle, tmp_path):
    ended = command(str(tiny_bundle), "--photos", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"evaluate: {tmp_path} is no folder of labelled photographs: ")
    assert ended.stderr.count("\n") == 1


def test_scenes_and_photographs_are_not_mixed(tiny_bundle, tmp_path):
    ended = command(str(tiny_bundle), "--photos", str(tmp_path), "--scenes", "3")
    assert ended.returncode == 2
    assert "not allowed with argument" in ended.stderr
