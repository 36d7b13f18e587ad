"""Calibration images: what is used, what is told, what is refused."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import SourceError
from engines.calibration.images import DEFAULT_IMAGES, FIRST_SEED, open_images, warn_where_few
from engines.reference.rendered import RENDERER
from engines.reference.renderer import scenes
from engines.reference.renderer.scenes import render_scene

INDEX = json.loads((Path(__file__).parents[3] / "calib_data" / "index.json").read_text(encoding="utf-8"))


def write_images(folder, number):
    for index in range(number):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((20, 30, 3), 10 * index, np.uint8))


def test_a_folders_images_are_read_in_order_and_damaged_ones_are_named(tmp_path, caplog):
    write_images(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"no image")

    images = open_images(str(tmp_path))
    shades = [frame[0, 0, 0] for frame in images]

    assert shades == [0, 20]
    assert "1.png is damaged" in caplog.text


def test_few_images_are_warned_of_by_those_who_find_ranges_alone(tmp_path, caplog):
    write_images(tmp_path, 2)
    images = open_images(str(tmp_path))
    assert caplog.text == ""

    warn_where_few(images)

    assert f"{tmp_path} holds 2 images" in caplog.text


def test_of_many_images_a_thousand_are_spread_over_the_folder(tmp_path):
    encoded = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    for index in range(1003):
        (tmp_path / f"{index:04}.png").write_bytes(encoded)

    assert len(open_images(str(tmp_path))) == 1000


def test_the_hash_of_a_folder_follows_its_files(tmp_path):
    write_images(tmp_path, 2)
    before = open_images(str(tmp_path)).sha256
    assert open_images(str(tmp_path)).sha256 == before
    write_images(tmp_path, 3)

    assert open_images(str(tmp_path)).sha256 != before


def test_the_hash_of_rendered_images_follows_every_file_that_paints():
    folder, reached, ahead = Path(scenes.__file__).parent, set(), {"scenes"}
    while ahead:
        reached |= ahead
        sources = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in ahead]
        ahead = {
            name for source in sources for name in re.findall(r"from engines\.reference\.renderer\.(\w+)", source)
        } - reached

    assert set(RENDERER) == reached


@pytest.mark.parametrize("where", ["", "nowhere", "rendered:", "rendered:0", "rendered:many", "a\0b"])
def test_a_place_without_images_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SourceError):
        open_images(where)


def test_a_folder_of_damaged_images_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")

    with pytest.raises(SourceError, match="no image that can be read"):
        list(open_images(str(tmp_path)))


def test_rendered_images_are_those_of_the_index():
    [kept] = [entry for entry in INDEX["sets"] if entry["name"] == "reference-512"]

    assert (FIRST_SEED, len(open_images(DEFAULT_IMAGES))) == (kept["first_seed"], kept["images"])
    [first, _] = open_images("rendered:2")
    np.testing.assert_array_equal(first, render_scene(kept["first_seed"]).image)
