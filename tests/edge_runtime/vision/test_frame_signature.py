"""A signature stays what it was; two of one scene are known by their motion, and two scenes are told apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.stream.change_gate import DEFAULT_THRESHOLD, ChangeGate, GateRule
from edge_runtime.vision.frame_signature import Motion, signature_of
from tests.edge_runtime.scenery import Frame, moved, noisy, wall


def test_comparing_changes_no_signature() -> None:
    one, other = signature_of(wall(1)), signature_of(moved(wall(1), 0.02, 0.0))
    before = one.cells.copy(), other.cells.copy()
    first = other.motion_since(one), other.difference(one, Motion())
    assert (other.motion_since(one), other.difference(one, Motion())) == first
    np.testing.assert_array_equal(one.cells, before[0])
    np.testing.assert_array_equal(other.cells, before[1])


def test_nobody_can_write_into_a_signature() -> None:
    with pytest.raises(ValueError, match="read-only"):
        signature_of(wall()).cells[0, 0] = 1.0


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.05, -0.03), (-0.2, 0.1), (0.004, 0.002)])
def test_the_motion_of_a_noisy_picture_is_found(shift: tuple[float, float]) -> None:
    found = signature_of(noisy(moved(wall(2), *shift), seed=1)).motion_since(signature_of(wall(2)))
    assert found is not None
    assert (found.dx, found.dy) == pytest.approx(shift, abs=0.006)


def test_of_unrelated_pictures_no_two_are_one_scene() -> None:
    signatures = [signature_of(wall(seed)) for seed in range(40)]
    merged = sum(a.motion_since(b) is not None for a in signatures for b in signatures if a is not b)
    assert merged <= 0.01 * 40 * 39


def cracked_at(frame: Frame, share: float) -> Frame:
    """The picture with a crack 12 pixels wide down at ``share`` of its width."""
    height, width = frame.shape[:2]
    x = round(share * width)
    line = np.array([[x, height // 4], [x + 4, height // 2], [x - 3, 3 * height // 4]], np.int32)
    return cv2.polylines(frame.copy(), [line], False, (35, 35, 35), 12, cv2.LINE_AA).astype(np.uint8)


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_a_new_crack_at_the_edge_is_seen_as_well_as_one_in_the_centre_however_often_one_looked(place: float) -> None:
    rule, missed = GateRule(DEFAULT_THRESHOLD, refresh_s=60.0), 0
    for seed in range(20):
        gate = ChangeGate()
        gate.inspected(signature_of(wall(seed)), 0.0)
        for look in range(10):  # a signature used to fade with every look
            gate.admits(signature_of(noisy(wall(seed), seed=look)), 0.1 * look, rule)
        missed += not gate.admits(signature_of(noisy(cracked_at(wall(seed), place), seed=99)), 1.1, rule)
    assert missed == 0
