"""How patches and photographs are told apart: areas and recalls of scores that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from engines.reference.photographs import load_photographs
from engines.reference.training.dense_scores import area_under_curve, dense_scores, photograph_score, recall_at
from tests.engines.reference.labelled_photos import write_training_folder


def test_the_area_is_the_chance_that_a_positive_scores_above_a_negative():
    positive = np.array([True, True, False, False])
    assert area_under_curve(np.array([3.0, 4.0, 1.0, 2.0]), positive) == 1
    assert area_under_curve(np.array([1.0, 4.0, 2.0, 3.0]), positive) == 0.5
    assert area_under_curve(np.array([1.0, 2.0, 3.0, 4.0]), positive) == 0


def test_recall_is_counted_above_all_but_a_few_negatives():
    negative = list(range(101))
    assert recall_at([94, 96, 200], negative, 0.05) == pytest.approx(2 / 3)


def test_many_patches_that_are_a_little_sure_count_more_than_one_that_is_very():
    crack, hole = np.full(256, -3.0), np.full(256, -3.0)
    crack[:20], hole[0] = 0.5, 9
    assert photograph_score(crack) > photograph_score(hole) > photograph_score(np.full(256, -3.0))


def test_a_model_that_sees_dark_pixels_finds_every_masked_patch_and_photograph(tmp_path):
    photos = [
        photo for photo in load_photographs(write_training_folder(tmp_path)) if photo.source in ("tiles", "plain")
    ]
    masked = {photo.source: photo for photo in photos}

    def sees_the_mask(picture: np.ndarray) -> np.ndarray:
        logits = np.zeros((16, 16, 2), np.float32)
        if shown:
            logits[:8, 7, 0] = 5
        return logits.reshape(256, 2)

    shown = True
    assert dense_scores([masked["tiles"]], sees_the_mask) == {"crack patches, tiles": 1.0}
    shown = False
    found = dense_scores(photos, sees_the_mask)
    assert found["crack found, tiles"] == 0
    assert found["crack patches, tiles"] < 0.6
