"""What a bundle finds at how many false alarms: ``python -m engines.evaluation.operating_points BUNDLE --photos DIR``.

A report names what the model thinks likeliest. This asks it for each class how probable that is, whether or not the
report would open a finding, and prints a line of JSON a class: the threshold at which one in twenty of the pictures
without the class would be reported, what is found there, the temperature that makes the probabilities fit, and the
curve of precision over recall. Photographs with faint labels are left out; what nobody has looked for does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import open_with_schema
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import UsageError
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from edge_runtime.reports.report import DEFECT_CLASSES
from edge_runtime.reports.schema import BRIDGE
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.sensitivity.questions import teacher_forcing_of, yes_probabilities
from engines.reference.photo_scores import close_ups
from engines.reference.photographs import EVERYTHING, Photograph, load_mask, load_photographs, load_picture
from engines.reference.rendered import FIRST_HELD_OUT_SEED, render_scene

FALSE_ALARMS = 0.05
_RECALLS = np.linspace(0.05, 1.0, 20)
_TEMPERATURES = np.geomspace(0.1, 10, 81)


@dataclass(frozen=True)
class Picture:
    """A picture, and what is known of it."""

    source: str
    frame: NDArray[np.uint8]  # (H, W, 3), BGR
    shows: frozenset[str]
    looked_for: frozenset[str]


@dataclass(frozen=True)
class Judged:
    """How probable a class is in a picture, and whether it is there."""

    source: str
    probability: float
    there: bool


@dataclass(frozen=True)
class OperatingPoint:
    """One class at the threshold where ``FALSE_ALARMS`` of the pictures without it are reported, or fewer."""

    positives: int
    negatives: int
    threshold: float
    recall: float
    false_alarms: float
    temperature: float  # that the log odds are divided by, so that the probabilities fit
    by_source: dict[str, float]  # share of its pictures above the threshold: found, or where it is not, false alarms
    curve: tuple[tuple[float, float, float, float], ...]  # recall, precision, false alarms, threshold


def operating_point(judged: Sequence[Judged]) -> OperatingPoint:
    """The operating point and curve of one class.

    Raises:
        ValueError: the class is in all of the pictures, or in none.
    """
    there = np.array([each.there for each in judged], bool)
    scores = np.array([each.probability for each in judged])
    if there.all() or not there.any():
        raise ValueError(
            f"the class is in {int(there.sum())} of {len(judged)} pictures; give some with and some without"
        )
    positive, negative = scores[there], scores[~there]
    allowed = int(FALSE_ALARMS * len(negative))
    threshold = float(np.sort(negative)[::-1][allowed])
    rows: dict[str, list[bool]] = defaultdict(list)
    for each in judged:
        rows[f"{each.source}, {'there' if each.there else 'not there'}"].append(each.probability > threshold)
    curve = []
    for recall in _RECALLS:
        lowest = float(np.sort(positive)[::-1][int(np.ceil(recall * len(positive) - 1e-9)) - 1])
        hits, alarms = int((positive >= lowest).sum()), int((negative >= lowest).sum())
        curve.append((hits / len(positive), hits / (hits + alarms), alarms / len(negative), lowest))
    return OperatingPoint(
        positives=len(positive),
        negatives=len(negative),
        threshold=threshold,
        recall=float((positive > threshold).mean()),
        false_alarms=float((negative > threshold).mean()),
        temperature=temperature(scores, there),
        by_source={name: float(np.mean(above)) for name, above in sorted(rows.items())},
        curve=tuple(curve),
    )


def temperature(probabilities: NDArray[np.floating], there: NDArray[np.bool_]) -> float:
    """What the log odds are best divided by: the least surprise at what is there; both (N,)."""
    odds = np.log(np.clip(probabilities, 1e-6, 1 - 1e-6) / (1 - np.clip(probabilities, 1e-6, 1 - 1e-6)))
    signed = np.where(there, odds, -odds)
    surprise = [float(np.logaddexp(0, -signed / each).mean()) for each in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(surprise))])


def pictures_of(photos: Iterable[Photograph]) -> Iterator[Picture]:
    """Photographs that are not faint, and the crack-free close-ups of those with a large crack mask."""
    for photo in photos:
        if photo.faint:
            continue
        image = load_picture(photo)
        yield Picture(photo.source, image, photo.shows, photo.looked_for)
        for window in close_ups(photo, image, load_mask(photo, image.shape[:2])):
            yield Picture(f"{photo.source}, crack-free windows", window, frozenset(), EVERYTHING)


def scenes(count: int) -> Iterator[Picture]:
    """Rendered scenes that were never trained on."""
    for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + count):
        scene = render_scene(seed)
        shown = frozenset(finding.defect_class for finding in scene.findings)
        yield Picture("rendered scenes", scene.image, shown, EVERYTHING)


def judge(bundle_path: Path, pictures: Iterable[Picture]) -> dict[str, list[Judged]]:
    """What the bundle thinks of every class that was looked for, picture by picture.

    Raises:
        BundleError: the bundle must not be loaded.
        BackendError: an engine does not load or run.
    """
    bundle, _ = open_with_schema(load_bundle(bundle_path), BRIDGE)  # photographs are labelled in its classes
    manifest = bundle.manifest
    tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, manifest.prompt, manifest.model.image_token_id)
    forced = teacher_forcing_of((), tokenizer)
    judged: dict[str, list[Judged]] = {name: [] for name in DEFECT_CLASSES}
    with open_bundle_tracer(bundle, prompt) as trace:
        for picture in pictures:
            layout = layout_of(manifest.image, *picture.frame.shape[:2])
            seen = trace(pixels_from_frame(picture.frame, manifest.image), forced.tokens, layout)
            shares, _ = yes_probabilities(seen, forced)
            for name, share in zip(DEFECT_CLASSES, shares, strict=True):
                if name in picture.looked_for:
                    judged[name].append(Judged(picture.source, float(share), name in picture.shows))
    return judged


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that edge-engines build wrote")
    parser.add_argument("--photos", type=Path, metavar="PATH", help="folder of labelled photographs, or a list in one")
    parser.add_argument("--scenes", type=int, default=0, help="rendered scenes beside them (%(default)s)")
    args = parser.parse_args()
    if args.photos is None and args.scenes < 1:
        raise UsageError("nothing to look at; give --photos PATH, --scenes COUNT, or both")
    photos = load_photographs(args.photos) if args.photos else []
    everything = chain(pictures_of(photos), scenes(args.scenes))
    judged = judge(args.bundle, tqdm(everything, unit="picture", disable=None))
    for name, each in judged.items():
        there = sum(picture.there for picture in each)
        if not 0 < there < len(each):
            print(f"{name} is in {there} of {len(each)} pictures: no operating point", file=sys.stderr)
            continue
        print(json.dumps({"class": name, **asdict(operating_point(each))}))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("operating_points", main))
