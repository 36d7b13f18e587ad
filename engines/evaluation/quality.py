"""Whether a bundle still does its work: reports on rendered scenes beside float16's, and which component is to blame.

Precision is worth what reports are worth. A recipe may say how much of the float16 model's macro-F1 has to remain; a
bundle that keeps less is refused by whoever builds it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from edge_runtime.bundle.manifest import MANIFEST_NAME, manifest_to_json
from edge_runtime.bundle.opening import Bundle
from edge_runtime.errors import VerificationError
from engines.build import build
from engines.checkpoint import Checkpoint
from engines.evaluation.sensitivity.outcomes import divergence
from engines.evaluation.sensitivity.scoring import hard_scenes, traces
from engines.quantize.recipe import load_recipe
from engines.reference.scores import evaluate

_SCENES = 200
_LEAST_F1 = 0.5  # who reports every defect in every scene gets 0.4
_TRACED_SCENES = 12


@dataclass(frozen=True)
class Quality:
    """What a bundle keeps of the float16 model."""

    macro_f1: float
    float16_macro_f1: float
    blame: Mapping[str, float]  # nats an unforced token, by which each component moves them; worst first

    @property
    def retention(self) -> float:
        """The share of float16's macro-F1 that remains."""
        return self.macro_f1 / self.float16_macro_f1


def check_quality(checkpoint: Checkpoint, bundle: Bundle, retention: float, scenes: int = _SCENES) -> Quality:
    """Measure ``bundle`` beside the float16 bundle of its checkpoint.

    Raises:
        VerificationError: less than ``retention`` remains, or the float16 model knows no such scenes.
    """
    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        wide = build(checkpoint, load_recipe("fp16"), bundle.manifest.target, Path(folder, "float16"))
        paths = [str(wide.path), str(bundle.path)]
        scores = evaluate(paths, scenes, lambda numbers: tqdm(numbers, desc="judging", unit="scene", disable=None))
        found, reference = scores[str(bundle.path)].macro_f1, scores[str(wide.path)].macro_f1
        if reference < _LEAST_F1:
            raise VerificationError(
                f"{checkpoint.name} reaches a macro-F1 of {reference:.2f} on {scenes} rendered scenes at float16, too "
                "little to say what its bundle keeps; leave retention out of the recipe, or give a model that knows "
                "such scenes"
            )
        if found >= retention * reference:
            return Quality(found, reference, {})
        quality = Quality(found, reference, _blame(bundle, wide, Path(folder)))
    worst = next(iter(quality.blame), "no single component")
    raise VerificationError(
        f"{bundle.path} keeps {quality.retention:.1%} of float16's macro-F1 ({found:.3f} of {reference:.3f} on "
        f"{scenes} scenes), and its recipe asks for {retention:.1%}; most of the harm is gone with {worst} at float16: "
        "give it more bits or another method"
    )


def _blame(bundle: Bundle, wide: Bundle, folder: Path) -> dict[str, float]:
    """By how much the bundle's divergence falls with each of its coarse components at float16, largest first."""
    scenes = hard_scenes(_TRACED_SCENES)
    reference = traces(wide.path, scenes)

    def diverges(path: Path) -> float:
        found = traces(path, scenes)
        return sum(divergence(*pair) for pair in zip(found, reference, strict=True)) / len(scenes)

    whole = diverges(bundle.path)
    gains = {}
    for kind in {c.role for c in bundle.manifest.components if c.precision != "float16"}:
        with _with_component(bundle, wide, kind, folder / kind) as path:
            gains[kind] = whole - diverges(path)
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


@contextmanager
def _with_component(bundle: Bundle, wide: Bundle, kind: str, path: Path) -> Iterator[Path]:
    """The bundle with one kind of component from the other, linked together at ``path``."""
    path.mkdir()
    theirs = [component for component in wide.manifest.components if component.role == kind]
    ours = [component for component in bundle.manifest.components if component.role != kind]
    manifest = replace(bundle.manifest, components=(*ours, *theirs))
    mine = (bundle.manifest.tokenizer, bundle.manifest.report_schema, *(f for c in ours for f in c.files))
    files = [(bundle, file) for file in mine]
    for owner, file in [*files, *((wide, f) for c in theirs for f in c.files)]:
        os.symlink(owner.file(file).absolute(), path / file.path)
    (path / MANIFEST_NAME).write_text(manifest_to_json(manifest), encoding="utf-8")
    yield path
