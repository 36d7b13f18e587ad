"""Scene changes and the gate, measured on rendered scenes: what is merged, skipped and missed at each threshold.

python -m benchmarks.bench_scenes            # about two minutes; the tables of docs/scenes.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.stream.change_gate import DEFAULT_THRESHOLD, ChangeGate, GateRule
from edge_runtime.vision.frame_signature import FrameSignature, signature_of
from engines.reference.flight import render_flight
from engines.reference.rendered import FIRST_HELD_OUT_SEED, images

Frame = NDArray[np.uint8]
SCENE_FRAMES = 5  # frames of a rendered flight at each scene


def moved(frame: Frame, dx: float, dy: float) -> Frame:
    height, width = frame.shape[:2]
    move = np.array([[1, 0, dx * width], [0, 1, dy * height]], np.float32)
    return cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.uint8)


def noisy(frame: Frame, rng: np.random.Generator) -> Frame:
    return np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)


def cracked(frame: Frame, rng: np.random.Generator, where: str, width_px: int) -> Frame:
    """A new dark crack a third of the frame long, ``where``: at the centre, or within 4 % of an edge."""
    height, width = frame.shape[:2]
    steps = np.linspace(0, 1, 12)
    along = rng.uniform(0.05, 0.6) + steps / 3
    across = np.cumsum(rng.normal(0, 0.003, 12))
    across = across - across.mean() + (rng.uniform(0.4, 0.6) if where == "centre" else rng.uniform(0.015, 0.035))
    if where == "edge" and rng.random() < 0.5:
        across = 1 - across
    x, y = (along, across) if rng.random() < 0.5 else (across, along)
    line = np.stack([x * width, y * height], axis=1).astype(np.int32)
    return cv2.polylines(frame.copy(), [line], False, (40, 40, 40), width_px, cv2.LINE_AA).astype(np.uint8)


def skipped_share(scenes: list[Frame], change: Callable[[Frame, np.random.Generator], Frame], rule: GateRule) -> float:
    """Of frames to which ``change`` was made, and which moved by up to 1 %, how many the gate skips."""
    rng, skipped = np.random.default_rng(7), 0
    for scene in scenes:
        gate = ChangeGate()
        gate.inspected(signature_of(scene), 0.0)
        later = moved(noisy(change(scene, rng), rng), *rng.uniform(-0.01, 0.01, 2))
        skipped += not gate.admits(signature_of(later), 0.1, rule)
    return skipped / len(scenes)


def merged(pairs: list[tuple[FrameSignature, FrameSignature]]) -> float:
    return sum(later.motion_since(earlier) is not None for earlier, later in pairs) / len(pairs)


def flown_pairs(flights: int, frames: int) -> tuple[list[tuple[FrameSignature, FrameSignature]], ...]:
    """Neighbours of one scene, and neighbours between which the flight cut to another one."""
    same, cut = [], []
    for seed in range(1, flights + 1):
        seen = [signature_of(frame) for frame in render_flight(seed, frames)]
        for index in range(1, len(seen)):
            (cut if index % SCENE_FRAMES == 0 else same).append((seen[index - 1], seen[index]))
    return same, cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    scenes = [cv2.resize(frame, (640, 480)).astype(np.uint8) for frame in images(FIRST_HELD_OUT_SEED, options.scenes)]
    signatures = [signature_of(scene) for scene in scenes]
    same, cut = flown_pairs(options.flights, 100)
    unrelated = [(one, other) for one in signatures for other in signatures if one is not other]
    print(f"one scene to its next frame, merged: {merged(same):.4f} of {len(same)}")
    print(f"over a cut, merged:                  {merged(cut):.4f} of {len(cut)}")
    print(f"unrelated pictures, merged:          {merged(unrelated):.4f} of {len(unrelated)}")
    rng = np.random.default_rng(5)
    shaken = [
        (one, signature_of(moved(noisy(scene, rng), *rng.uniform(-0.2, 0.2, 2))))
        for one, scene in zip(signatures, scenes, strict=True)
    ]
    print(f"moved by up to 20 % with noise, merged: {merged(shaken):.4f} of {len(shaken)}")
    print(
        "| threshold | nothing new | crack, centre 6 px | crack, edge 6 px | crack, centre 12 px | crack, edge 12 px |"
    )
    for threshold in (0.2, 0.25, 0.3, DEFAULT_THRESHOLD, 0.5):
        rule = GateRule(threshold, refresh_s=60.0)
        cells = [skipped_share(scenes, lambda scene, rng: scene, rule)]
        for width_px in (6, 12):
            cells += [
                skipped_share(scenes, lambda scene, rng, p=place, w=width_px: cracked(scene, rng, p, w), rule)
                for place in ("centre", "edge")
            ]
        print(f"| {threshold} |" + "|".join(f" {share:.3f} " for share in cells) + "|")


if __name__ == "__main__":
    main()
