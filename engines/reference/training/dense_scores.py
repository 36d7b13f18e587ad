"""How well patches and photographs are told apart before there is a decoder: curves of stage one.

    python -m engines.reference.training.dense_scores --out run --photos PATH

Reads the state of stage one, and prints one line of JSON: the area under the curve over patches of masked photographs,
and the share of cracked ones above the highest-scoring twentieth of undamaged ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import CheckpointError
from engines.reference.photographs import Photograph, load_mask, load_photographs, load_picture
from engines.reference.renderer.defects import BITS
from engines.reference.training.samples import COVERED, GRID, UNCOVERED, shrunk

CLASSES = ("crack", "corrosion")
FALSE_ALARMS = 0.05


def area_under_curve(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative; both (N,), with at least one of either.

    Equal scores count as they are sorted.
    """
    order = np.argsort(scores)
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    positives = int(positive.sum())
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * (len(scores) - positives)))


def recall_at(positive: Sequence[float], negative: Sequence[float], false_alarms: float) -> float:
    """Share of ``positive`` scores above all but the highest ``false_alarms`` of ``negative`` ones."""
    return float((np.asarray(positive) > np.quantile(negative, 1 - false_alarms)).mean())


def photograph_score(logits: NDArray[np.floating]) -> float:
    """How many patches are likelier than not to show a class, and the mean chance of all where that is the same.

    Of a crack many patches are a little sure, of a hole few are very: behind the Hiera of docs/photographs.md, this
    finds 0.96 of the cracked tiles of SDNET2018 and 0.58 of its windows; the mean of the highest three patches, 0.12
    and 0.21.
    """
    chances = 1 / (1 + np.exp(-logits))
    return float((chances > 0.5).sum() + chances.mean())


def dense_scores(
    photos: Sequence[Photograph], logits_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> dict[str, float]:
    """Patch areas by class and source, and recalls at a twentieth of false alarms; faint cracks are left out.

    ``logits_of`` gives, for a picture (256, 256, 3) RGB, (256, classes) over patches row by row, crack first.
    """
    patches: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = defaultdict(list)
    shows: dict[tuple[str, str], list[float]] = defaultdict(list)
    sound: dict[str, list[float]] = defaultdict(list)
    for photo in photos:
        if photo.faint:
            continue
        image = load_picture(photo)
        logits = logits_of(shrunk(image))
        mask = load_mask(photo, image.shape[:2])
        for index, name in enumerate(CLASSES):
            score = photograph_score(logits[:, index])
            if photo.is_undamaged:
                sound[name].append(score)
            elif name in photo.shows:
                shows[name, photo.source].append(score)
            if photo.mask is not None and photo.mask.defect_class == name and mask is not None:
                share = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
                flat = np.asarray(share, np.float32).ravel()
                patches[f"{name} patches, {photo.source}"].append((logits[:, index], flat))
    found = {}
    for row, pairs in sorted(patches.items()):
        name = row.partition(" ")[0]
        scores, shares = (np.concatenate(part) for part in zip(*pairs, strict=True))
        positive = shares >= COVERED[BITS[name]]
        counted = positive | (shares < UNCOVERED)
        if 0 < positive.sum() < counted.sum():
            found[row] = area_under_curve(scores[counted], positive[counted])
    for (name, source), scores_of in sorted(shows.items()):
        if sound[name]:
            found[f"{name} found, {source}"] = recall_at(scores_of, sound[name], FALSE_ALARMS)
    return {row: round(value, 4) for row, value in found.items()}


def main() -> int:
    """Command line."""
    import torch
    from transformers import CLIPVisionModel

    from engines.reference.training.vision_encoder import DenseHeads, normalized, patch_features, vision_config

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder with the state of stage one")
    parser.add_argument("--photos", type=Path, required=True, metavar="PATH", help="folder of photographs, or a list")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photos = load_photographs(args.photos)
    if not (args.out / "vision.pt").exists():
        raise CheckpointError(f"{args.out} holds no vision.pt; train the vision stage first, with the same --out")
    state = torch.load(args.out / "vision.pt", weights_only=True)
    model = torch.nn.ModuleDict({"tower": CLIPVisionModel(vision_config()), "heads": DenseHeads()})
    model.load_state_dict(state["model"])
    model.eval()

    def logits_of(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            features = patch_features(model["tower"], normalized(picture[None]))
            return np.asarray(model["heads"](features)[0][0, :, : len(CLASSES)].numpy(), np.float32)

    print(json.dumps({"step": state["step"], **dense_scores(photos, logits_of)}))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("dense_scores", main))
