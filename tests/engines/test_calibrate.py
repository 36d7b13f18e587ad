"""Calibration on one machine for a build on another: what is written, and that the other takes it."""

import json

import pytest

from edge_runtime.errors import CalibrationError
from engines.build import build
from engines.calibrate import calibrate, default_route
from engines.calibration.images import open_images
from engines.cli import main
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe

VERSION = "10.3.0"  # of the simulated Jetson
IMAGES = open_images("rendered:2")
TWO_GROUPS = {"group_parameters": 300_000}


def calibrated(caches, images=IMAGES, version=VERSION, **options):
    checkpoint, recipe = open_checkpoint("synthetic:tiny-llava"), load_recipe("asymmetric-int8")
    return calibrate(checkpoint, recipe, images, caches, version, **TWO_GROUPS, **options)


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_kept_is_ranges_and_what_overflows(tmp_path):
    written = calibrated(tmp_path)

    graphs = ["vision_encoder", "connector", "decoder.00", "decoder.01", "lm_head"]
    assert sorted(path.name for path in written) == sorted(
        [*(f"{name}.overflow" for name in graphs), "decoder.00.cache", "decoder.01.cache"]
    )
    assert set(files_of(tmp_path)) == {f"{path.name}{note}" for path in written for note in ("", ".json")}


def test_what_is_fresh_is_kept_and_what_is_missing_made_again(tmp_path):
    calibrated(tmp_path)
    first = files_of(tmp_path)
    (tmp_path / "decoder.01.cache").unlink()
    calibrated(tmp_path)
    second = files_of(tmp_path)

    assert {name for name in first if second[name] != first[name]} == {"decoder.01.cache", "decoder.01.cache.json"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": open_images("rendered:3")}, "another set of images"),
        ({"version": "10.9.0.34"}, r"another TensorRT \(then 10.3.0, now 10.9.0\)"),
        ({"int8_route": "explicit"}, "another graph"),
    ],
)
def test_caches_of_something_else_are_refused_by_what_differs(tmp_path, changed, says):
    calibrated(tmp_path)

    with pytest.raises(CalibrationError, match=says):
        calibrated(tmp_path, **changed)


@pytest.mark.parametrize(
    ("version", "route"), [("8.6.1.6", "implicit"), ("10.16.1.11", "implicit"), ("11.0.0.114", "explicit")]
)
def test_the_route_is_the_versions(version, route):
    assert default_route(version) == route


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CalibrationError, match=f"cannot write to {tmp_path / 'file'}"):
        calibrated(tmp_path / "file")


@pytest.mark.parametrize(("recipe", "warns"), [("asymmetric-int8", True), ("fp16", False)])
def test_few_images_are_warned_of_where_ranges_are_found(tmp_path, caplog, recipe, warns):
    calibrate(
        open_checkpoint("synthetic:tiny-llava"), load_recipe(recipe), open_images("rendered:1"), tmp_path, VERSION
    )

    assert ("rendered:1 holds 1 images" in caplog.text) == warns


def test_the_command_says_what_to_do_with_it(tmp_path, capsys):
    arguments = ["calibrate", "synthetic:tiny-llava", "--images", "rendered:1", "--out", str(tmp_path / "ranges")]

    assert main(arguments) == 0
    same = "--recipe asymmetric-int8 --images rendered:1 --target tensorrt"
    assert f"build there with {same} --calibration-cache ranges" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["caches"]
    assert str(tmp_path / "ranges" / "decoder.00.cache") in kept


def test_a_version_that_is_none_is_refused_in_a_line(tmp_path, capsys):
    assert main(["calibrate", "synthetic:tiny-llava", "--out", str(tmp_path), "--tensorrt", "newest"]) == 1
    assert "'newest' is no TensorRT version; expected one such as 10.3.0" in capsys.readouterr().err


@pytest.mark.simulated_jetson
@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_a_build_by_tensorrt_takes_what_was_found_without_it(tmp_path, route):
    calibrated(tmp_path / "caches", int8_route=route)
    before = files_of(tmp_path / "caches")

    build(
        open_checkpoint("synthetic:tiny-llava"),
        load_recipe("asymmetric-int8"),
        "tensorrt",
        tmp_path / "bundle",
        images=IMAGES,
        calibration_cache=tmp_path / "caches",
        int8_route=route,
        timing_cache=tmp_path / "timing",
        **TWO_GROUPS,
    )

    assert files_of(tmp_path / "caches") == before
