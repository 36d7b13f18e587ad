"""The scene renderer: seeded, true to its labels, and honest about what is a defect."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.reports.report import (
    DEFECT_CLASSES,
    SEVERITIES,
    Finding,
    InspectionReport,
    Region,
    answer_from_findings,
    findings_from_answer,
)
from engines.reference.flight import render_flight
from engines.reference.renderer.canvas import Canvas
from engines.reference.renderer.distractors import DISTRACTORS
from engines.reference.renderer.scenes import (
    AS_TRAINED,
    BACKDROP,
    HARD,
    SIZE,
    compose_scene,
    patch_coverage,
    render_scene,
)
from engines.reference.renderer.surfaces import SURFACES
from engines.reference.renderer.truth import finding_from_mask, region_from_mask, severity_of
from engines.reference.scores import ScoreCounts

SEEDS = range(40)


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed) for seed in SEEDS]


def test_the_same_seed_renders_the_same_scene():
    first, second = render_scene(5), render_scene(5)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert first.findings == second.findings


def test_a_hard_scene_shows_the_same_things_more_faintly():
    plain, hard = (render_scene(5, conditions=conditions) for conditions in (AS_TRAINED, HARD))

    assert hard.surface == plain.surface
    assert {f.defect_class for f in hard.findings} <= {f.defect_class for f in plain.findings} != set()
    assert 0 < (hard.labels & 0b11111 > 0).sum() < (plain.labels & 0b11111 > 0).sum()


def test_nearly_every_crack_of_a_hard_scene_is_a_hairline():
    hard = [render_scene(seed, (120, 160), HARD) for seed in range(60)]
    cracks = [scene.facts["crack"]["width"] for scene in hard if "crack" in scene.facts]

    assert cracks.count("hairline") > 0.6 * len(cracks) > 5


def test_painting_fades_to_the_share_that_is_asked_for():
    canvas = Canvas(
        np.full((2, 2, 3), 100, np.float32), np.zeros((2, 2), np.uint16), np.random.default_rng(0), light_rad=0.0
    )

    with canvas.faded(0.5):
        canvas.shade(np.full((2, 2), 0.2, np.float32))

    assert np.allclose(canvas.color, 60)


def test_a_frame_has_the_size_that_was_asked_for():
    scene = render_scene(3, (120, 160))
    assert scene.image.shape == (120, 160, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == (120, 160)


def test_every_finding_has_pixels_inside_its_region(scenes):
    for scene in scenes:
        height, width = scene.labels.shape
        for finding in scene.findings:
            mask = (scene.labels >> DEFECT_CLASSES.index(finding.defect_class)) & 1
            y, x = np.nonzero(mask)
            box = finding.region
            inside = (x / width >= box.x_min) & (x / width < box.x_max) & (y / height >= box.y_min)
            assert (inside & (y / height < box.y_max)).mean() > 0.95


def test_no_defect_pixel_is_left_without_a_finding(scenes):
    for scene in scenes:
        reported = {finding.defect_class for finding in scene.findings}
        for bit, name in enumerate(DEFECT_CLASSES):
            assert bool(((scene.labels >> bit) & 1).any()) == (name in reported)


def test_findings_survive_the_answer_a_perfect_model_writes(scenes):
    for scene in scenes:
        parsed = findings_from_answer(answer_from_findings(scene.findings), [1.0] * len(scene.findings))
        assert [f.description for f in parsed] == [f.description for f in scene.findings]
        for parsed_finding, finding in zip(parsed, scene.findings, strict=True):
            assert abs(parsed_finding.region.x_min - finding.region.x_min) <= 0.005 + 1e-9


@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_a_distractor_is_no_finding(distractor):
    scene = compose_scene(np.random.default_rng(1), SIZE, "concrete", set(), (distractor,))
    assert scene.findings == ()
    assert scene.distractors == (distractor,)


@pytest.mark.parametrize("surface", [*SURFACES, BACKDROP])
def test_a_surface_alone_is_no_finding(surface):
    assert compose_scene(np.random.default_rng(2), SIZE, surface, set(), ()).findings == ()


@pytest.mark.parametrize("defect_class", DEFECT_CLASSES)
def test_each_defect_changes_the_picture_where_it_is_marked(defect_class):
    bare = compose_scene(np.random.default_rng(4), SIZE, "concrete", set(), ())
    scene = compose_scene(np.random.default_rng(4), SIZE, "concrete", {defect_class}, ())
    mask = (scene.labels >> DEFECT_CLASSES.index(defect_class)) & 1 == 1
    assert [finding.defect_class for finding in scene.findings] == [defect_class]
    difference = np.abs(scene.image[mask].astype(float).mean() - bare.image[~mask].astype(float).mean())
    assert difference > 5


def test_patch_coverage_is_the_share_of_marked_pixels():
    labels = np.zeros((32, 32), np.uint16)
    labels[:16, :8] = 1 << 2
    coverage = patch_coverage(labels, 2)
    assert coverage.shape == (2, 2, len(DEFECT_CLASSES) + len(DISTRACTORS))
    assert coverage[0, 0, 2] == pytest.approx(0.5)
    assert coverage.sum() == pytest.approx(0.5)


def test_a_region_ignores_the_outermost_specks():
    mask = np.zeros((100, 100), bool)
    mask[20:60, 30:80] = True
    mask[99, 99] = True
    assert region_from_mask(mask) == Region(0.3, 0.2, 0.8, 0.6)


def test_a_defect_too_small_to_see_is_no_finding():
    mask = np.zeros((100, 100), bool)
    mask[0, 0] = True
    assert finding_from_mask("spalling", mask, {}, "concrete") is None


@pytest.mark.parametrize(
    ("defect_class", "share", "facts", "severity"),
    [
        ("crack", 0.001, {"width": "hairline"}, "minor"),
        ("crack", 0.001, {"width": "fine"}, "moderate"),
        ("crack", 0.01, {"width": "wide"}, "severe"),
        ("corrosion", 0.01, {}, "minor"),
        ("corrosion", 0.3, {}, "critical"),
        ("spalling", 0.05, {}, "moderate"),
        ("exposed_rebar", 0.01, {}, "moderate"),
        ("efflorescence", 0.9, {}, "severe"),
    ],
)
def test_severity_follows_the_written_rule(defect_class, share, facts, severity):
    assert severity_of(defect_class, share, Region(0, 0, 0.4, 0.4), facts) == severity


def test_a_wide_crack_across_the_frame_is_critical():
    assert severity_of("crack", 0.01, Region(0, 0, 1, 0.5), {"width": "wide"}) == "critical"


def test_a_flight_repeats_from_its_seed_and_moves_between_frames():
    first, again = list(render_flight(1, 3)), list(render_flight(1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (480, 640, 3)
    assert not np.array_equal(first[0], first[1])


def test_a_perfect_report_scores_one(scenes):
    counts = ScoreCounts()
    for scene in scenes:
        counts.add(scene, InspectionReport(findings=scene.findings))
    scores = counts.scores()
    assert scores.macro_f1 == scores.region_iou_03 == scores.severity_exact == scores.hairline_recall == 1.0
    assert scores.corrosion_missed == scores.false_alarms_distractors == 0.0


def test_a_blind_report_misses_everything_and_alarms_nobody(scenes):
    counts = ScoreCounts()
    for scene in scenes:
        counts.add(scene, InspectionReport())
    scores = counts.scores()
    assert scores.macro_f1 == scores.hairline_recall == scores.region_iou_03 == 0.0
    assert scores.corrosion_missed == 1.0
    assert scores.false_alarms_distractors == scores.false_alarms_clean == 0.0


def test_a_finding_on_a_sound_frame_is_a_false_alarm():
    scene = compose_scene(np.random.default_rng(1), SIZE, "concrete", set(), ("moss",))
    wrong = Finding("corrosion", SEVERITIES[0], Region(0, 0, 1, 1), 0.5, "", "monitor")
    counts = ScoreCounts()
    counts.add(scene, InspectionReport(findings=(wrong,)))
    assert counts.scores().false_alarms_distractors == 1.0
