"""Training samples: a scene as the model sees it and as the losses need it, rendered in worker processes.

Nothing is stored on disk; a pool in memory shows every scene a few times, mirrored and re-exposed, because rendering
costs about as much as a training step.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from multiprocessing.queues import Queue

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.reports.report import DEFECT_CLASSES, SEVERITIES, Finding, Region
from edge_runtime.signals import deaf_children
from engines.reference.renderer.distractors import DISTRACTORS
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, Scene, patch_coverage, render_scene
from engines.reference.renderer.surfaces import SURFACES

IMAGE_PX = 256
GRID = 16
# A patch shows a layer from this share of it on, and nothing below the other; between, the loss looks away. Cracks are
# thin.
COVERED = (0.02, *[0.12] * (len(DEFECT_CLASSES) + len(DISTRACTORS) - 1))
UNCOVERED = 0.004
_CHUNK = 8  # scenes that a process renders at a time
_CHUNKS_AHEAD = 50
_RENDER_SIZES = ((288, 384), (288, 384), (336, 448), (256, 256), (270, 480))
DIRECTIONS = ("horizontal", "vertical", "diagonal")


@dataclass
class Sample:
    """One scene at the model's resolution."""

    image: NDArray[np.uint8]  # (256, 256, 3), RGB
    coverage: NDArray[np.uint8]  # (16, 16, layers), share of each patch in 1/255
    boxes: NDArray[np.float32]  # (classes, 4), x_min, y_min, x_max, y_max
    severity: NDArray[np.int64]  # (classes,), -1 where the class is absent
    surface: int  # index into SURFACES, -1 for a backdrop
    direction: int  # of the crack, -1 without one
    bars: int  # 0 one bar, 1 several, -1 no exposed rebar
    findings: tuple[Finding, ...]
    known: NDArray[np.bool_] | None = None  # (16, 16, layers): patches whose coverage is known; None: all
    somewhere: NDArray[np.bool_] | None = None  # (16, 16): a crack shows in at least one of these patches; None: none
    opens_with: str | None = None  # class of the answer's first finding, "": unknown; None: ``findings`` are all of it


def render_sample(seed: int) -> Sample:
    """Render ``seed`` at one of the training sizes and shrink it as the image processor does."""
    return sample_of_scene(render_scene(seed, render_size(seed)))


def render_size(seed: int) -> tuple[int, int]:
    """The height and width at which ``seed`` is rendered for training."""
    return _RENDER_SIZES[seed % len(_RENDER_SIZES)]


def shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, (H, W, 3) BGR, as the image processor gives it to the model: (256, 256, 3) RGB."""
    image = Image.fromarray(picture[..., ::-1])
    if image.size != (IMAGE_PX, IMAGE_PX):
        image = image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    return np.asarray(image)


def sample_of_scene(scene: Scene) -> Sample:
    """What a scene teaches."""
    boxes = np.zeros((len(DEFECT_CLASSES), 4), np.float32)
    severity = np.full(len(DEFECT_CLASSES), -1, np.int64)
    for finding in scene.findings:
        index, box = DEFECT_CLASSES.index(finding.defect_class), finding.region
        boxes[index] = box.x_min, box.y_min, box.x_max, box.y_max
        severity[index] = SEVERITIES.index(finding.severity)
    present = {finding.defect_class for finding in scene.findings}
    return Sample(
        image=shrunk(scene.image),
        coverage=np.round(patch_coverage(scene.labels, GRID) * 255).astype(np.uint8),
        boxes=boxes,
        severity=severity,
        surface=SURFACES.index(scene.surface) if scene.surface in SURFACES else -1,
        direction=DIRECTIONS.index(scene.facts["crack"]["direction"]) if "crack" in present else -1,
        bars=int(scene.facts["exposed_rebar"]["bars"] != "one bar") if "exposed_rebar" in present else -1,
        findings=scene.findings,
    )


def mirrored(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample flipped left to right half of the time, at another exposure and colour balance."""
    if rng.random() < 0.5:
        sample = _flipped(sample)
    levels = np.arange(256, dtype=np.float32)[:, None] * rng.uniform(0.8, 1.2) * rng.normal(1, 0.03, 3) + rng.uniform(
        -15, 15
    )
    table = np.clip(levels, 0, 255).astype(np.uint8)[None]
    return replace(sample, image=np.asarray(cv2.LUT(np.ascontiguousarray(sample.image), table), np.uint8))


def _flipped(sample: Sample) -> Sample:
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = np.where(sample.severity[:, None] >= 0, 1 - boxes[:, [2, 0]], 0)
    return replace(
        sample,
        image=sample.image[:, ::-1],
        coverage=sample.coverage[:, ::-1],
        boxes=boxes,
        findings=tuple(_mirrored_finding(finding) for finding in sample.findings),
        known=None if sample.known is None else sample.known[:, ::-1],
        somewhere=None if sample.somewhere is None else sample.somewhere[:, ::-1],
    )


def _mirrored_finding(finding: Finding) -> Finding:
    box = finding.region
    region = Region(1 - box.x_max, box.y_min, 1 - box.x_min, box.y_max)
    return Finding(finding.defect_class, finding.severity, region, 1.0, finding.description, finding.action)


def sample_batches(
    first_seed: int,
    batch: int,
    workers: int,
    reuse: int,
    pool_size: int = 6000,
    sample_of: Callable[[int], Sample] = render_sample,
) -> Iterator[list[Sample]]:
    """Endless batches; every sample is shown about ``reuse`` times before the pool forgets it.

    ``sample_of`` makes one of its seed, in a process of its own.
    """
    if first_seed >= FIRST_HELD_OUT_SEED:
        raise ValueError(f"seed {first_seed} is held out; train on seeds below {FIRST_HELD_OUT_SEED}")
    rng = np.random.default_rng(first_seed)
    pool: list[Sample] = []
    fresh_per_batch = max(batch // reuse, 1)
    rendered = _rendered(first_seed, workers, sample_of)
    while True:
        fresh = list(islice(rendered, fresh_per_batch if pool else 2 * batch))
        pool.extend(fresh)
        del pool[: max(len(pool) - pool_size, 0)]
        old = rng.integers(0, len(pool), max(batch - len(fresh), 0))
        yield [mirrored(sample, rng) for sample in (fresh + [pool[int(i)] for i in old])[:batch]]


def _rendered(first_seed: int, workers: int, sample_of: Callable[[int], Sample]) -> Iterator[Sample]:
    """Samples in the order of their seeds, each process rendering a little ahead (not a ``Pool``: it does not wait)."""
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(_CHUNKS_AHEAD) for _ in range(workers)]
    for index, queue in enumerate(queues):
        seeds = range(first_seed + index * _CHUNK, FIRST_HELD_OUT_SEED, workers * _CHUNK)
        with deaf_children():
            context.Process(target=_render_chunks, args=(seeds, queue, sample_of), daemon=True).start()
    for queue in cycle(queues):
        yield from queue.get()


def _render_chunks(first_seeds: range, queue: Queue[list[Sample]], sample_of: Callable[[int], Sample]) -> None:
    cv2.setNumThreads(1)
    for first_seed in first_seeds:
        queue.put([sample_of(seed) for seed in range(first_seed, first_seed + _CHUNK)])
