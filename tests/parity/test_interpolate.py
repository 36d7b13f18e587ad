"""Checkpoints between two: weights on the straight line, and none between what does not belong together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_runtime.errors import CheckpointError

pytestmark = pytest.mark.parity

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the parity extra")

from engines.reference.training.interpolate import interpolate  # noqa: E402


def write(folder, weight, **settings):
    folder.mkdir()
    safetensors.save_file({"w": np.full((2, 3), weight, np.float16)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_weights_lie_on_the_way(tmp_path):
    before = write(tmp_path / "before", 1, transformers_version="1")
    after = write(tmp_path / "after", 3, transformers_version="2")
    interpolate(before, after, 0.75, tmp_path / "out")
    found = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert found["w"].dtype == np.float16
    assert (found["w"] == 2.5).all()


def test_checkpoints_of_two_architectures_have_nothing_between_them(tmp_path):
    before, after = write(tmp_path / "before", 1, layers=4), write(tmp_path / "after", 3, layers=6)
    with pytest.raises(CheckpointError, match="have another config"):
        interpolate(before, after, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights_is_said_to_be_one(tmp_path):
    with pytest.raises(CheckpointError, match="there is no "):
        interpolate(tmp_path, tmp_path, 0.5, tmp_path / "out")
