"""What a picture measures: numbers that are known beforehand for pictures that are drawn for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.reference.photographs import load_photographs
from engines.reference.picture_statistics import (
    Picture,
    hidden_length,
    local_deviation,
    measure,
    measured_photos,
    net_contrast,
    spectrum,
    statistics_table,
)
from tests.engines.reference.labelled_photos import write_training_folder

ROOT = Path(__file__).parents[3]
GREY = np.full((256, 256), 100, np.float32)
LINE = np.zeros((256, 256), bool)
LINE[:, 100:102] = True


def test_net_contrast_is_the_share_by_which_a_crack_is_darker_than_its_surroundings():
    cracked = GREY.copy()
    cracked[LINE] = 80
    assert net_contrast(cracked, LINE) == pytest.approx(0.2)


def test_a_crack_hides_where_it_is_no_darker_than_the_specks_around_it():
    noisy = GREY + np.random.default_rng(0).normal(0, 5, GREY.shape).astype(np.float32)
    cracked = noisy.copy()
    cracked[:128, 100:102] -= 60
    assert hidden_length(cracked, LINE) == pytest.approx(0.45, abs=0.08)
    assert hidden_length(noisy, LINE) > 0.8


def test_local_deviation_is_that_of_the_noise():
    noisy = GREY + np.random.default_rng(0).normal(0, 5, GREY.shape).astype(np.float32)
    assert np.median(local_deviation(noisy)) == pytest.approx(5, rel=0.05)


def test_white_noise_has_a_flat_spectrum_and_most_power_above_a_quarter_cycle():
    slope, high = spectrum(np.random.default_rng(0).normal(100, 5, (256, 256)).astype(np.float32))
    assert slope == pytest.approx(0, abs=0.25)
    assert high > 0.7


def test_what_is_not_known_is_not_measured():
    rows = measure(Picture(GREY, None, None))
    assert not [name for name in rows if "crack" in name or "corrosion" in name]


def test_corrosion_has_its_share_and_its_grain():
    rows = measure(Picture(GREY, None, LINE))
    assert rows["corrosion, % of the frame"] == pytest.approx(100 * 2 / 256)
    assert rows["corrosion grain in 7 px, grey levels"] == 0


def test_a_column_stands_for_every_source(tmp_path):
    columns = measured_photos(load_photographs(write_training_folder(tmp_path)))
    head, _, pictures, contrast, *_ = statistics_table(columns).splitlines()
    assert head.endswith("| plain | tiles |")
    assert pictures == "| pictures | 1 | 1 |"
    assert contrast.startswith("| crack net contrast, % |  | ")


@pytest.mark.parametrize("look", ["shipped", "lifelike"])
def test_scenes_of_either_look_are_measured(look):
    asked = [sys.executable, "-m", "engines.reference.picture_statistics", "--look", look, "--scenes", "3"]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert ended.stdout.startswith("| 10 / 50 / 90 % of pictures | ")
    assert "| slow shading, % |" in ended.stdout
