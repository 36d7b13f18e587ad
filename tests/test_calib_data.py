"""The calibration index names sets that are neither trained nor judged on, and samples that are what it says."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene

CALIB_DATA = Path(__file__).parents[1] / "calib_data"
INDEX = json.loads((CALIB_DATA / "index.json").read_text(encoding="utf-8"))
SEEDS_OF_EVALUATION = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 1_000_000)


@pytest.mark.parametrize("calibration_set", INDEX["sets"], ids=lambda entry: entry["name"])
def test_a_set_shares_no_seed_with_training_or_evaluation(calibration_set: dict) -> None:
    first = calibration_set["first_seed"]
    assert first >= FIRST_HELD_OUT_SEED
    assert calibration_set["images"] > 0
    assert first not in SEEDS_OF_EVALUATION
    assert first + calibration_set["images"] - 1 not in SEEDS_OF_EVALUATION


@pytest.mark.parametrize("sample", INDEX["samples"], ids=lambda entry: entry["file"])
def test_a_sample_is_the_file_that_was_hashed(sample: dict) -> None:
    assert hashlib.sha256((CALIB_DATA / sample["file"]).read_bytes()).hexdigest() == sample["sha256"]


@pytest.mark.parametrize("sample", INDEX["samples"], ids=lambda entry: entry["file"])
def test_a_sample_shows_what_its_seed_renders(sample: dict) -> None:
    stored = cv2.imread(str(CALIB_DATA / sample["file"]))
    rendered = render_scene(sample["seed"]).image
    difference = np.abs(stored.astype(int) - rendered.astype(int)).mean()
    assert difference < 6, "the renderer changed; run: python -m calib_data.make_samples"  # JPEG costs 1 to 3


def test_every_sample_in_the_folder_is_in_the_index() -> None:
    files = {f"samples/{path.name}" for path in (CALIB_DATA / "samples").iterdir()}
    assert files == {sample["file"] for sample in INDEX["samples"]}


def test_the_samples_stay_small() -> None:
    assert sum(path.stat().st_size for path in (CALIB_DATA / "samples").iterdir()) < 300_000
