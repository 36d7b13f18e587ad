"""What a classifier of scenes is to say: the defect that shows most, or none; knows no network.

The reference classifier, ``classifier.onnx`` beside this file, is a small ResNet that ``train_classifier`` made. It is
there to show what INT8 does to convolutions: no inspector is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import DEFECT_CLASSES
from engines.reference.renderer.defects import BITS
from engines.reference.renderer.scenes import Scene, render_scene

CLASSIFIER = Path(__file__).parents[1] / "classifier.onnx"
CLASSES = ("none", *DEFECT_CLASSES)
SCENE_SIZE = (192, 256)  # height, width that scenes are rendered at for it


def class_of_scene(scene: Scene) -> int:
    """The index in ``CLASSES`` of the defect that covers most pixels, of those that are findings."""
    present = {finding.defect_class for finding in scene.findings}
    pixels = {name: int(((scene.labels >> BITS[name]) & 1).sum()) for name in DEFECT_CLASSES if name in present}
    return CLASSES.index(max(pixels, key=lambda name: pixels[name])) if pixels else 0


def labelled_scenes(seeds: Iterable[int]) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames uint8 (H, W, 3), BGR, and their classes."""
    for seed in seeds:
        scene = render_scene(seed, SCENE_SIZE)
        yield scene.image, class_of_scene(scene)
