"""Samples from photographs: masks teach each patch, tiles only what lies beside them, and nothing is made up."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_runtime.reports.report import DEFECT_CLASSES
from engines.reference.photographs import load_photographs
from engines.reference.renderer.lifelike import Background
from engines.reference.renderer.scenes import BACKDROP
from engines.reference.training.photo_samples import Mixture, backgrounds, has_answer, mixture, sample_of_photo
from engines.reference.training.samples import mirrored, render_sample
from tests.engines.reference.labelled_photos import draw_picture, write_training_folder

CRACK, CORROSION = 0, 1
DEFECTS = len(DEFECT_CLASSES)


@pytest.fixture
def folder(tmp_path):
    return write_training_folder(tmp_path)


@pytest.fixture
def photos(folder):
    listed = [*load_photographs(folder), *load_photographs(folder / "train.txt")]
    return {photo.source: photo for photo in listed}


class Whole(np.random.Generator):
    """Draws nought, so that a photograph is shown whole and upside down only where its draws say so."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *args: object, **named: object) -> float:
        return 0.0


def whole(photo):
    return sample_of_photo(photo, Whole())


def test_a_mask_says_for_every_patch_whether_its_class_shows(photos):
    sample = whole(photos["tiles"])
    assert sample.known[..., CRACK].all()
    shown = sample.coverage[..., CRACK] > 0
    assert shown[:8, 7].all()
    assert shown.sum() == 8


def test_other_classes_than_that_of_the_mask_stay_open(photos):
    sample = whole(photos["tiles"])
    assert not sample.known[..., 1:].any()
    rust = whole(photos["vt_corrosion"])
    assert rust.known[..., CORROSION].all()
    assert not np.delete(rust.known, CORROSION, axis=2).any()


def test_a_mask_gives_its_finding_a_box_and_a_severity(photos):
    sample = whole(photos["tiles"])
    assert sample.boxes[CRACK] == pytest.approx((31 / 64, 0, 32 / 64, 32 / 64), abs=0.02)
    assert sample.severity.tolist() == [2, -1, -1, -1, -1]  # 16 per-mille of the frame's width


def test_an_answer_is_learned_of_photographs_whose_labels_open_it(photos):
    assert has_answer(photos["plain"])
    assert has_answer(photos["tiles"])
    assert not has_answer(photos["windows"])  # faint
    assert not has_answer(photos["vt_corrosion"])  # with spalling, of which no mask tells where


def test_a_masked_crack_in_a_known_surface_gives_a_whole_answer(photos):
    sample = whole(replace(photos["tiles"], surface="concrete"))
    assert sample.opens_with is None
    assert [finding.description for finding in sample.findings] == ["wide vertical crack in concrete"]


def test_masked_rust_gives_a_whole_answer_on_steel(photos):
    sample = whole(replace(photos["vt_corrosion"], shows=frozenset({"corrosion"})))
    assert sample.opens_with is None
    assert [finding.description for finding in sample.findings] == ["small area of corrosion on steel"]


def test_of_a_crack_in_a_tile_or_in_an_unknown_surface_the_answer_is_known_up_to_its_class(photos):
    assert whole(photos["windows"]).opens_with == "crack"
    assert whole(photos["tiles"]).opens_with == "crack"


def test_of_an_answer_with_several_classes_nothing_is_known(photos):
    assert whole(photos["vt_corrosion"]).opens_with == ""


def test_a_crack_too_small_for_a_finding_teaches_no_answer(folder, photos):
    draw_picture(folder / "tiles/images/a.jpg", 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[100, 100] = 255
    assert cv2.imwrite(str(folder / "tiles/masks/a.png"), mask)
    sample = whole(replace(photos["tiles"], surface="concrete"))
    assert sample.findings == ()
    assert sample.opens_with == ""


def test_beside_a_tile_nothing_is_cracked_and_in_it_something_is(photos):
    sample = whole(photos["windows"])
    assert sample.known[:, 8:, CRACK].all()
    assert not sample.known[:, :8, CRACK].any()
    assert sample.somewhere[:, :8].all()
    assert not sample.somewhere[:, 8:].any()


def test_a_part_of_a_tile_may_lack_its_crack(photos):
    for seed in range(40):
        sample = sample_of_photo(photos["windows"], np.random.default_rng(seed))
        if sample.somewhere is None:
            assert not sample.known[..., CRACK].all()
            assert sample.opens_with == ""
            return
    pytest.fail("no part was shown")


def test_what_is_undamaged_shows_no_defect_and_leaves_distractors_open(photos):
    sample = whole(photos["plain"])
    assert sample.known[..., :DEFECTS].all()
    assert not sample.known[..., DEFECTS:].any()
    assert not sample.coverage.any()
    assert sample.somewhere is None


def test_a_crack_without_a_place_is_somewhere(folder):
    labels = (folder / "labels.csv").read_text(encoding="utf-8").replace("tiles/masks/a.png", "")
    (folder / "labels.csv").write_text(labels, encoding="utf-8")
    sample = whole(load_photographs(folder)[1])
    assert sample.somewhere.all()
    assert not sample.known[..., CRACK].any()


def test_labels_turn_with_the_picture(photos):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sample = mirrored(sample_of_photo(photos["tiles"], rng), rng)
        x_min, y_min, x_max, y_max = sample.boxes[CRACK] * 16
        rows, columns = np.nonzero(sample.coverage[..., CRACK] > 100)
        if len(rows):
            assert y_min - 1.01 <= rows.min() <= rows.max() <= y_max + 0.01
            assert x_min - 1.01 <= columns.min() <= columns.max() <= x_max + 0.01


def test_a_mixture_makes_the_same_sample_of_a_seed_in_any_process(photos):
    mixed = Mixture(tuple(photos.values()))
    again = pickle.loads(pickle.dumps(mixed))
    assert all(np.array_equal(mixed(seed).image, again(seed).image) for seed in range(6))


def test_about_two_in_five_samples_are_photographs(photos):
    mixed = Mixture((photos["tiles"],))
    from_photos = [mixed(seed).known is not None for seed in range(60)]
    assert 0.2 < np.mean(from_photos) < 0.6


def test_a_mixture_leaves_out_what_can_hardly_be_seen(folder):
    assert [photo.source for photo in mixture(load_photographs(folder / "train.txt")).photos] == ["vt_corrosion"]


def test_scenes_of_both_looks_are_mixed():
    samples = [Mixture()(seed) for seed in range(8)]
    shipped = [np.array_equal(sample.image, render_sample(seed).image) for seed, sample in enumerate(samples)]
    assert 0 < sum(shipped) < 8


def test_only_large_undamaged_photographs_are_painted_on(folder):
    assert backgrounds(load_photographs(folder)) == []
    draw_picture(folder / "plain/images/d.jpg", 400)
    assert backgrounds(load_photographs(folder)) == [Background(folder / "plain/images/d.jpg", BACKDROP)]


def test_a_note_that_names_the_material_gives_the_background_its_surface(folder):
    labels = (folder / "labels.csv").read_text(encoding="utf-8")
    (folder / "labels.csv").write_text(labels.replace("none,,64,64,", "none,,64,64,brick; by hand"), encoding="utf-8")
    assert cv2.imwrite(str(folder / "plain/images/d.jpg"), np.full((420, 500, 3), 90, np.uint8))
    assert [background.surface for background in backgrounds(load_photographs(folder))] == ["masonry"]
