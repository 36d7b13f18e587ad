"""Folders of labelled photographs: what is known of each picture, and errors that say what is missing."""

from __future__ import annotations

import pytest

from edge_runtime.errors import SourceError
from edge_runtime.reports.report import Region
from engines.reference.photographs import EVERYTHING, load_mask, load_photographs, load_picture
from tests.engines.reference.labelled_photos import draw_mask, write_checking_folder, write_training_folder


@pytest.fixture
def training(tmp_path):
    return write_training_folder(tmp_path / "photos")


@pytest.fixture
def checking(tmp_path):
    return write_checking_folder(tmp_path / "photos")


def test_a_folder_gives_the_photographs_of_its_dev_list(training):
    assert [photo.source for photo in load_photographs(training)] == ["plain", "tiles"]


def test_a_list_gives_the_photographs_it_names(training):
    tile, rust = load_photographs(training / "train.txt")
    assert (tile.source, tile.faint, tile.shows) == ("windows", True, {"crack"})
    assert rust.shows == rust.looked_for == {"corrosion", "spalling"}


def test_only_a_photograph_without_defects_is_undamaged_and_looked_at_for_all(training):
    plain, cracked = load_photographs(training)
    assert plain.is_undamaged
    assert plain.looked_for == EVERYTHING
    assert not cracked.is_undamaged
    assert cracked.looked_for == {"crack"}


def test_a_mask_shows_where_its_source_saw_the_defect(training):
    cracked, rust = load_photographs(training)[1], load_photographs(training / "train.txt")[1]
    assert (cracked.mask.defect_class, rust.mask.defect_class) == ("crack", "corrosion")
    for photo in (cracked, rust):
        mask = load_mask(photo, load_picture(photo).shape[:2])
        assert mask[:32, 31].all()
        assert mask.sum() == 32


def test_a_tile_with_a_crack_somewhere_is_no_tight_box(training):
    [box] = load_photographs(training / "train.txt")[0].boxes
    assert (box.region, box.tight) == (Region(0, 0, 0.5, 1), False)


def test_a_checking_folder_speaks_for_itself(checking):
    photos = {photo.source: photo for photo in load_photographs(checking)}
    assert {source: set(photo.shows) for source, photo in photos.items()} == {
        "rust": {"corrosion"},
        "drone": {"crack"},
        "quay": {"crack"},
        "caliterra_seq": set(),
    }
    assert photos["caliterra_seq"].is_undamaged
    assert photos["quay"].boxes[0].region == Region(0.375, 0, 0.625, 1)


def test_a_formwork_joint_in_a_drone_mask_is_no_crack(checking):
    draw_mask(checking / "drone/test_lab/a.png", 204, 512)
    [drone] = [photo for photo in load_photographs(checking) if photo.source == "drone"]
    assert drone.shows == set()
    assert not load_mask(drone, (512, 512)).any()


def test_a_folder_without_labels_says_what_it_lacks(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SourceError, match=r"is no folder of labelled photographs: there is no .*labels.csv"):
            load_photographs(path)


def test_labels_without_a_column_name_it(training):
    (training / "labels.csv").write_text("picture,words\na.jpg,crack\n", encoding="utf-8")
    with pytest.raises(SourceError, match="has no column 'file'"):
        load_photographs(training)


def test_labels_without_rows_are_no_photographs(training):
    (training / "labels.csv").write_text("file,labels\n", encoding="utf-8")
    with pytest.raises(SourceError, match="has no rows"):
        load_photographs(training)


def test_a_class_that_no_report_has_is_named(training):
    labels = (training / "labels.csv").read_text(encoding="utf-8")
    (training / "labels.csv").write_text(labels.replace("none", "moss"), encoding="utf-8")
    with pytest.raises(SourceError, match=r"plain/images/d.jpg shows 'moss'; expected crack"):
        load_photographs(training)


@pytest.mark.parametrize("name", ["tiles/images/a.jpg", "tiles/masks/a.png"])
def test_a_missing_picture_is_named(training, name):
    (training / name).unlink()
    with pytest.raises(SourceError, match=rf"there is no .*{name}, which the labels"):
        load_photographs(training)


def test_a_list_that_names_what_has_no_label_is_refused(training):
    (training / "dev.txt").write_text("plain/images/z.jpg\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"has no row for plain/images/z.jpg"):
        load_photographs(training)


def test_a_box_in_an_unknown_picture_is_refused(training):
    boxes = (training / "boxes.csv").read_text(encoding="utf-8")
    (training / "boxes.csv").write_text(boxes.replace("b.jpg", "z.jpg"), encoding="utf-8")
    with pytest.raises(SourceError, match=r"has a box in windows/images/z.jpg, of which labels.csv has no row"):
        load_photographs(training)


def test_a_picture_that_is_none_is_named(training):
    (training / "plain/images/d.jpg").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"d.jpg cannot be read as a picture"):
        load_picture(load_photographs(training)[0])


def test_a_mask_of_another_size_is_refused(training):
    draw_mask(training / "tiles/masks/a.png", 255, 32)
    with pytest.raises(SourceError, match="holds 32x32 pixels; expected 64x64"):
        load_mask(load_photographs(training)[1], (64, 64))


def test_a_line_that_is_no_box_is_shown(checking):
    (checking / "quay/k1/b.txt").write_text("0 0.5 left\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"line 1, is '0 0.5 left'; expected: class x y width height"):
        load_photographs(checking)
