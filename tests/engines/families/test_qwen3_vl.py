"""Qwen3-VL and Qwen2.5-VL: which settings are taken, and which are refused while they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle.manifest import CoordinateSpec, NativeImage
from edge_runtime.errors import CheckpointError
from edge_runtime.inspector import Inspector
from edge_runtime.language.questions import Text
from edge_runtime.reports.schema import schema_from_yaml
from engines.build import build
from engines.families import read_model
from engines.families.base import AS_SUGGESTED, ImageOptions, Model
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint, synthetic_checkpoint
from engines.quantize.recipe import load_recipe

NAME = "tiny-qwen3-vl"
TINY = SYNTHETIC_CONFIGS[NAME]
WINDOWS = "tiny-qwen2.5-vl"


def read(
    part: str = "",
    image: Mapping[str, Any] = MappingProxyType({}),
    options: ImageOptions = AS_SUGGESTED,
    name: str = NAME,
    **changes: Any,
) -> Model:
    """The tiny model's, with other settings in a part of its configuration, or of its image processor."""
    tiny = SYNTHETIC_CONFIGS[name]
    checkpoint = synthetic_checkpoint(name, tiny)
    config = {**tiny, part: {**tiny[part], **changes}} if part else {**tiny, **changes}
    object.__setattr__(checkpoint, "config", config)
    object.__setattr__(checkpoint, "image_processor", {**checkpoint.image_processor, **image})
    return read_model(checkpoint, options=options)


def rope(**changes: Any) -> dict[str, Any]:
    """The tiny model's settings of positions, changed; None leaves one out."""
    settings = {**TINY["text_config"]["rope_scaling"], **changes}
    return {"rope_scaling": {key: value for key, value in settings.items() if value is not None}}


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("text_config", rope(mrope_section=None), "mrope_section is missing"),
        ("text_config", rope(mrope_section=[8, 8]), "expected three numbers that make 24"),
        ("text_config", rope(mrope_section=[6, 9, 9]), "the last two to be a third of 24 at most"),
        ("text_config", rope(mrope_interleaved=False), "mrope_interleaved is not true"),
        ("text_config", {"model_type": "qwen3_vl_moe_text"}, "supported: qwen3_vl_text"),
        ("vision_config", {"out_hidden_size": 64}, "out_hidden_size is 64; supported: 128"),
        ("vision_config", {"spatial_merge_size": 4}, "spatial_merge_size is 4; supported: 2"),
        ("vision_config", {"num_heads": 3}, "a multiple of 4 a head"),
        ("vision_config", {"num_position_embeddings": 63}, "num_position_embeddings is 63; supported: a square"),
        ("vision_config", {"deepstack_visual_indexes": [2, 0]}, "expected numbers of the 4 layers in order"),
        ("vision_config", {"deepstack_visual_indexes": [4]}, "expected numbers of the 4 layers in order"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_settings_that_no_engine_has_are_refused(part: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read(part, **changes)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("vision_config", {"window_size": 40}, "window_size is 40; supported: a multiple of 16, of whole tokens"),
        ("vision_config", {"fullatt_block_indexes": [4]}, "expected numbers of the 4 layers"),
        ("vision_config", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("text_config", {"rope_scaling": {"type": "mrope"}}, "mrope_section is missing"),
        ("text_config", {"use_sliding_window": True}, "use_sliding_window is true"),
        ("text_config", {"model_type": "qwen2_vl_text"}, "supported: qwen2_5_vl_text"),
        ("", {"model_type": "qwen2_vl"}, "has the architecture 'qwen2_vl'; supported: .*qwen2_5_vl"),
    ],
)
def test_settings_of_windows_that_no_engine_has_are_refused(part: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read(part, name=WINDOWS, **changes)


def test_settings_beside_those_of_the_tower_are_read_as_older_versions_saved_them() -> None:
    tiny = SYNTHETIC_CONFIGS[WINDOWS]
    checkpoint = synthetic_checkpoint(WINDOWS, tiny)
    flat = {**tiny["text_config"], **{k: v for k, v in tiny.items() if k != "text_config"}}
    object.__setattr__(checkpoint, "config", flat)
    assert read_model(checkpoint).spec == read(name=WINDOWS).spec


def test_a_frame_of_windows_is_rounded_to_whole_ones_and_told_of_in_pixels() -> None:
    options = ImageOptions(frames=((1280, 720), (640, 480)))
    model = read_model(open_checkpoint("synthetic:qwen2.5-vl-7b"), options=options)
    assert isinstance(model.image, NativeImage)
    assert model.image.grids == ((24, 44), (16, 24))
    assert model.coordinates == CoordinateSpec(44 * 28, "pixels")


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        ({"patch_size": 16}, ImageOptions(), "patch_size 16, and the vision encoder 8"),
        ({"merge_size": 1}, ImageOptions(), "merge_size 1"),
        ({"min_pixels": 5000, "max_pixels": 4000}, ImageOptions(), "at least 5000 pixels, and 4000 at most"),
        ({}, ImageOptions(fit="crop"), "leave --fit out"),
        ({}, ImageOptions(tiles=4), "leave --tiles out"),
        ({}, ImageOptions(frames=((4000, 10),)), "a frame of 4000x10 has a side of more than 200 times the other"),
    ],
)
def test_images_that_no_engine_takes_are_refused(image: dict[str, Any], options: ImageOptions, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read(image=image, options=options)


def test_a_real_model_has_the_grids_and_tokens_of_its_frames() -> None:
    options = ImageOptions(frames=((1920, 1080), (1280, 720), (640, 480)))
    model = read_model(open_checkpoint("synthetic:qwen3-vl-4b"), options=options)
    assert isinstance(model.image, NativeImage)
    assert model.image.grids == ((34, 60), (22, 40), (15, 20))
    assert model.image.max_tokens == 2040
    assert model.vision.deepstack == ((2040, 2560),) * 3


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-vl-2b", 2.13),
        ("qwen3-vl-4b", 4.44),
        ("qwen3-vl-8b", 8.77),
        ("qwen2.5-vl-3b", 3.75),
        ("qwen2.5-vl-7b", 8.29),
    ],
)
def test_real_shapes_have_as_many_numbers_as_their_names_say(name: str, billions: float) -> None:
    checkpoint = open_checkpoint(f"synthetic:{name}")
    assert sum(math.prod(checkpoint.shape(tensor)) for tensor in checkpoint) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize(("name", "unit"), [(NAME, "thousandths"), (WINDOWS, "pixels")])
def test_another_schema_asks_for_corners_in_the_units_of_the_family(name: str, unit: str) -> None:
    schema = schema_from_yaml(b"name: roofs\nsubject: the roof\nclasses: [moss, hole]\nseverities: [small, large]")
    checkpoint = replace(synthetic_checkpoint(name, SYNTHETIC_CONFIGS[name]), prompt=None)

    prompt = read_model(checkpoint, schema=schema).prompt

    assert "the roof" in prompt.before_image
    assert f"in {unit} of the image" in prompt.before_image


def test_a_question_between_two_reports_changes_nothing_of_them(tmp_path: Path) -> None:
    # Its prompt before the image is shorter, and rows before the image count plainly again in the next report.
    checkpoint = replace(synthetic_checkpoint("seed-1", TINY), prompt=None)  # these weights find something
    image = ImageOptions(frames=((96, 96),))
    bundle = build(checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "bundle", image=image)
    frame = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)

    with Inspector.open(bundle.path, threads=1) as inspector:
        before = inspector.inspect(frame)
        inspector.ask(frame, "What is there?", Text(max_tokens=2))
        after = inspector.inspect(frame)

    assert len(before.findings) == 2
    assert after.findings == before.findings
