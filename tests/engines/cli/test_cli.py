"""The command: results on stdout, one readable line for an error, and an exit code that scripts can rely on."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from engines.cli import main
from engines.quantize.recipe import known_recipes

TINY = "synthetic:tiny-llava"


@pytest.fixture
def images(tmp_path):
    directory = tmp_path / "images"
    directory.mkdir()
    cv2.imwrite(str(directory / "grey.png"), np.full((50, 70, 3), 120, np.uint8))
    return str(directory)


def test_plan_prints_the_memory_plan_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(["plan", "synthetic:llava-1.5-13b"]) == 0

    text = capsys.readouterr().out
    assert "decoder" in text
    assert "kv_cache" in text
    assert "on disk: 8." in text
    assert os.listdir(tmp_path) == []


def test_plan_as_json_is_one_document(capsys):
    assert main(["plan", TINY, "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["memory_bytes"] == sum(document["memory_plan"].values())


def test_tiles_are_capped_by_the_families_that_cut_frames(capsys):
    assert main(["plan", "synthetic:tiny-internvl", "--tiles", "4", "--frame", "160x90"]) == 0
    assert "1x2 tiles, 14 tokens" in capsys.readouterr().out
    assert main(["plan", "synthetic:tiny-llava", "--tiles", "4"]) == 1
    assert "leave --frame and --tiles out" in capsys.readouterr().err


def test_a_plan_beyond_the_budget_ends_with_4(capsys):
    assert main(["plan", "synthetic:llava-1.5-7b", "--budget", "2GB"]) == 4

    assert "more than the budget of 2.00 GB" in capsys.readouterr().err


def test_build_and_verify_in_two_commands(capsys, tmp_path, images):
    bundle = str(tmp_path / "bundle")

    assert main(["build", TINY, "--out", bundle, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == bundle
    assert main(["verify", bundle, "--images", images, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fidelity"] is None
    assert document["not_compared"] == "no --checkpoint was given"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["build", "nowhere", "--out", "b"], "no checkpoint directory nowhere"),
        (["build", TINY, "--target", "abacus", "--out", "b"], "there is no target 'abacus'"),
        (["build", TINY, "--recipe", "int5", "--out", "b"], "there is no recipe 'int5'"),
        (["build", "synthetic:gpt", "--out", "b"], "there is no synthetic:gpt"),
        (["plan", "synthetic:gpt"], "there is no synthetic:gpt"),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(capsys, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edge-engines: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_verbose_shows_where_an_error_came_from(capsys):
    assert main(["plan", "nowhere", "-v"]) == 1

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bake"],
        ["build", TINY],
        ["plan", TINY, "--budget", "lots"],
        ["plan", TINY, "--context", "0"],
    ],
)
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as ending:
        main(arguments)

    assert ending.value.code == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--int8-route", "explicit"], "--int8-route means nothing to the target onnxruntime"),
        (["--compute-capability", "8.7"], "build for tensorrt and tensorrt-rtx"),
        (["--timing-cache", "file"], "build for tensorrt and tensorrt-rtx"),
        (["--target", "tensorrt-rtx", "--int8-route", "explicit"], "asymmetric-int4, which has no INT8"),
        (["--images", "rendered:1"], "calibrates nothing"),
        (["--calibration-cache", "folder"], "finds no ranges"),
        (["--target", "tensorrt-rtx", "--calibration-cache", "folder"], "finds no ranges"),
        (["--measurements", "file"], "ask for --recipe auto"),
        (["--per-tensor"], "without --family cnn"),
        (["--family", "cnn", "--target", "tensorrt", "--context", "9"], "--target, --context mean nothing"),
    ],
)
def test_an_option_that_has_nothing_to_act_on_is_wrong_usage(capsys, tmp_path, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)

    assert main(["build", TINY, "--out", "bundle", *options]) == 2

    assert complaint in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_route_for_int8_is_wrong_usage_where_nothing_becomes_int8(capsys, tmp_path):
    arguments = ["calibrate", TINY, "--recipe", "asymmetric-int4", "--out", str(tmp_path / "ranges")]

    assert main([*arguments, "--int8-route", "explicit"]) == 2

    assert "--int8-route means nothing to the recipe asymmetric-int4" in capsys.readouterr().err


def test_a_folder_of_damaged_images_is_refused(capsys, tmp_path, images):
    bundle = str(tmp_path / "bundle")
    main(["build", TINY, "--out", bundle])
    (tmp_path / "images" / "grey.png").write_bytes(b"no image")

    assert main(["verify", bundle, "--images", images]) == 1
    assert "no image that can be read" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    text = capsys.readouterr().out
    assert "edge-engines build llava-1.5-7b-hf --out out/bundle" in text
    assert "exit codes" in text


@pytest.mark.parametrize(("command", "has_devices"), [("plan", True), ("build", False)])
def test_help_speaks_of_a_device_where_one_can_be_named(capsys, command, has_devices):
    with pytest.raises(SystemExit):
        main([command, "--help"])

    text = capsys.readouterr().out
    assert ("--device" in text) == ("the device's" in text) == has_devices


def test_a_library_that_is_not_installed_is_named_with_what_installs_it():
    code = "import sys; sys.modules['onnx'] = None; from engines.cli import main; sys.exit(main(['plan', 'nowhere']))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stderr == "edge-engines: onnx is not installed; pip install '.[build]' in a checkout\n"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["--version"])

    assert ending.value.code == 0
    assert re.fullmatch(r"edge-engines \S.*\n", capsys.readouterr().out)


def test_threads_keep_the_process_to_so_many_cores():
    code = (
        "import os, sys; from engines.cli import main; "
        "code = main(['plan', 'synthetic:tiny-llava', '--threads', '1']); "
        "print(len(os.sched_getaffinity(0)), file=sys.stderr); sys.exit(code)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == "1"


def test_help_names_every_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    words = re.findall(r"[\w-]+", capsys.readouterr().out)
    assert set(known_recipes()) <= set(words)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "engines.cli", "build", "synthetic:llava-1.5-7b", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 60
        while not (tmp_path / "bundle.partial" / "journal.json").exists() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().endswith("run the same command again to go on")
    assert not out.exists()
