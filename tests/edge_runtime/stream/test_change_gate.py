"""The same wall is inspected once, whatever the sensor and the exposure do; anything new is inspected at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.stream.change_gate import DEFAULT_THRESHOLD, ChangeGate, GateRule
from edge_runtime.vision.frame_signature import signature_of
from tests.edge_runtime.scenery import Frame, brighter, compressed, cracked, moved, noisy, wall

RULE = GateRule(DEFAULT_THRESHOLD, refresh_s=5.0)


def gate_that_saw(frame: Frame, at_s: float = 0.0) -> ChangeGate:
    gate = ChangeGate()
    gate.inspected(signature_of(frame), at_s)
    return gate


def test_the_first_frame_is_inspected() -> None:
    assert ChangeGate().admits(signature_of(wall()), 0.0, RULE)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: noisy(frame, seed=1),
        brighter,
        compressed,
        lambda frame: moved(frame, 0.005, -0.003),
        lambda frame: moved(noisy(brighter(frame), seed=2), -0.02, 0.01),
        lambda frame: frame[::2, ::2],
    ],
    ids=["noise", "exposure", "compression", "jitter", "drift", "resolution"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_frame_that_shows_the_same_is_skipped(change: Callable[[Frame], Frame], seed: int) -> None:
    frame = wall(seed)
    assert not gate_that_saw(frame).admits(signature_of(change(frame)), 0.1, RULE)


@pytest.mark.parametrize(
    "change",
    [cracked, lambda frame: cracked(noisy(frame, seed=3), 3), lambda frame: moved(frame, 0.1, 0.0), lambda _: wall(99)],
    ids=["crack", "fine crack", "motion", "cut"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_frame_that_shows_something_new_is_inspected(change: Callable[[Frame], Frame], seed: int) -> None:
    frame = wall(seed)
    assert gate_that_saw(frame).admits(signature_of(change(frame)), 0.1, RULE)


def test_slow_drift_adds_up_to_something_new() -> None:
    frame = wall()
    gate = gate_that_saw(frame)
    admitted = [gate.admits(signature_of(moved(frame, 0.01 * step, 0)), 0.1 * step, RULE) for step in range(1, 8)]
    assert not admitted[0]
    assert admitted[-1]


def test_nothing_new_is_inspected_again_after_a_while() -> None:
    frame = wall()
    gate = gate_that_saw(frame, at_s=100.0)
    assert not gate.admits(signature_of(frame), 104.9, RULE)
    assert gate.admits(signature_of(frame), 105.0, RULE)


def test_a_blank_frame_after_a_blank_frame_is_nothing_new() -> None:
    fog = np.full((480, 640, 3), 180, np.uint8)
    assert not gate_that_saw(fog).admits(signature_of(noisy(fog, seed=1)), 0.1, RULE)
    assert gate_that_saw(fog).admits(signature_of(wall()), 0.1, RULE)


def test_a_threshold_of_zero_lets_everything_pass() -> None:
    assert gate_that_saw(wall()).admits(signature_of(wall()), 0.0, GateRule())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (2160, 3840, 3), (3, 2, 3)])
def test_frames_of_any_size_can_be_compared(shape: tuple[int, int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert not gate_that_saw(frame).admits(signature_of(frame), 0.1, RULE)
