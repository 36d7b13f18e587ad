"""Scenes that measure like photographs: seeded, true to their labels, and harder than those that shipped."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.reports.report import DEFECT_CLASSES
from engines.reference.picture_statistics import net_contrast
from engines.reference.renderer.canvas import Canvas
from engines.reference.renderer.close_range import paint_close_range
from engines.reference.renderer.darkroom import develop
from engines.reference.renderer.defects import BITS
from engines.reference.renderer.distractors import BITS as DISTRACTOR_BITS
from engines.reference.renderer.lifelike import Background, grain, render_lifelike_scene
from engines.reference.renderer.lifelike_defects import paint_cracks, paint_rust
from engines.reference.renderer.scenes import BACKDROP, render_scene
from engines.reference.renderer.surfaces import SURFACES

SMALL = (144, 192)


def blank(seed: int = 0, size: tuple[int, int] = SMALL) -> Canvas:
    color = np.full((*size, 3), 150, np.float32)
    return Canvas(color, np.zeros(size, np.uint16), np.random.default_rng(seed), light_rad=1.0)


@pytest.fixture(scope="module")
def scenes():
    return [render_lifelike_scene(seed, SMALL) for seed in range(60)]


def test_the_same_seed_renders_the_same_scene():
    first, second = render_lifelike_scene(5, SMALL), render_lifelike_scene(5, SMALL)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert first.findings == second.findings


def test_the_scenes_of_the_shipped_checkpoint_are_another_distribution_and_stay_as_they_are():
    image = render_scene(5, (60, 80)).image
    assert not np.array_equal(image, render_lifelike_scene(5, (60, 80)).image)
    render_lifelike_scene(6, (60, 80))
    assert hashlib.sha256(render_scene(5, (60, 80)).image).digest() == hashlib.sha256(image).digest()


def test_no_defect_pixel_is_left_without_a_finding(scenes):
    for scene in scenes:
        reported = {finding.defect_class for finding in scene.findings}
        for name in DEFECT_CLASSES:
            assert bool(((scene.labels >> BITS[name]) & 1).any()) == (name in reported)


def test_every_surface_and_every_defect_comes_up(scenes):
    assert {scene.surface for scene in scenes} == {*SURFACES, BACKDROP}
    assert {finding.defect_class for scene in scenes for finding in scene.findings} >= {"crack", "corrosion"}


def test_a_good_part_of_the_scenes_shows_nothing(scenes):
    assert 0.25 < np.mean([not scene.findings for scene in scenes]) < 0.65


def test_most_cracks_are_fainter_than_any_that_shipped():
    contrasts = []
    for seed in range(40):
        canvas = blank(seed, (256, 256))
        paint_cracks(canvas)
        contrasts.append(net_contrast(canvas.color.mean(2), canvas.labels > 0))
    assert 0.1 < np.mean(np.array(contrasts) < 0.08) < 0.5
    assert 0.35 < np.mean(np.array(contrasts) < 0.15) < 0.75
    assert max(contrasts) > 0.4


def test_a_crack_is_marked_whole_where_it_is_broken():
    marked, seen = 0, 0
    for seed in range(20):
        canvas = blank(seed)
        paint_cracks(canvas)
        shown = canvas.labels > 0
        marked += shown.sum()
        seen += (shown & (canvas.color.mean(2) < 149)).sum()
    assert seen < 0.9 * marked


def test_rust_is_grainy_and_marked():
    canvas = blank(1)
    assert paint_rust(canvas, grain) == {}
    rusty = (canvas.labels >> BITS["corrosion"]) & 1 == 1
    assert rusty.any()
    assert canvas.color[rusty].std(0).max() > 8
    assert canvas.color[rusty][:, 2].mean() > canvas.color[rusty][:, 0].mean() + 20  # red above blue


def test_what_a_close_look_shows_is_no_defect():
    defects = sum(1 << bit for bit in BITS.values())
    allowed = sum(1 << bit for bit in DISTRACTOR_BITS.values())
    for seed in range(30):
        canvas = blank(seed)
        paint_close_range(canvas)
        assert not (canvas.labels & np.uint16(defects)).any()
        assert not (canvas.labels & ~np.uint16(allowed)).any()
        assert canvas.color.std() > 0.5


def test_grain_has_deviation_one_and_no_slow_shading():
    texture = grain(blank(3, (256, 256)))
    assert texture.std() == pytest.approx(1, abs=1e-3)
    assert cv2.GaussianBlur(texture, (0, 0), 16).std() < 0.25


def test_a_photograph_is_developed_without_noise_or_light_of_our_own():
    canvas = blank(2)
    canvas.color += canvas.noise(60)[..., None] * np.float32(10)
    image, _ = develop(canvas, is_photograph=True)
    assert abs(image.mean() - canvas.color.mean()) < 3


def test_defects_are_painted_on_backgrounds_that_are_given(tmp_path: Path):
    red = np.zeros((200, 300, 3), np.uint8)
    red[..., 2] = 200
    assert cv2.imwrite(str(tmp_path / "red.png"), red)
    backgrounds = [Background(tmp_path / "red.png", "concrete")]
    scenes = [render_lifelike_scene(seed, SMALL, backgrounds) for seed in range(40)]
    real = [scene for scene in scenes if np.median(scene.image[..., 0]) < 10 < np.median(scene.image[..., 2]) - 150]
    assert 8 <= len(real) <= 24
    assert any(scene.findings for scene in real)
    assert {scene.surface for scene in real} == {"concrete"}


def test_a_background_without_a_structure_gets_no_defect(tmp_path: Path):
    assert cv2.imwrite(str(tmp_path / "road.png"), np.full((200, 300, 3), 90, np.uint8))
    backgrounds = [Background(tmp_path / "road.png", BACKDROP)]
    scenes = [render_lifelike_scene(seed, SMALL, backgrounds) for seed in range(20)]
    assert all(not scene.findings for scene in scenes if scene.surface == BACKDROP)


def test_a_background_that_is_no_picture_is_named(tmp_path: Path):
    (tmp_path / "none.png").write_bytes(b"no picture")
    backgrounds = [Background(tmp_path / "none.png", "concrete")]
    with pytest.raises(ValueError, match=r"none.png cannot be read as a picture"):
        [render_lifelike_scene(seed, SMALL, backgrounds) for seed in range(20)]
