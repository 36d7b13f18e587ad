"""How near two executions of a model are: what is recorded of one, and the numbers that compare two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import Manifest

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """What a model did with one image: ``logits[i]`` are those from which ``tokens[i]`` was to be chosen."""

    features: Float32  # (P, Dv), out of the vision encoder
    image_embeddings: Float32  # (P, D), out of the connector
    logits: Float32  # (T, V)
    tokens: tuple[int, ...]  # (T,)


@dataclass(frozen=True)
class Fidelity:
    """Over all images and rows that were compared: the worst, or the median where it says so."""

    features_cosine: float  # 1 where features point the same way
    logits_relative_error: float  # largest difference of a row, over the row's largest logit
    logits_median_error: float  # the same of the row in the middle
    identical_tokens: float  # share of positions at which the same token is chosen
    positions: int  # of tokens compared

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, for the manifest and for people."""
        return {
            "features_cosine": round(self.features_cosine, 7),
            "logits_relative_error": float(f"{self.logits_relative_error:.3g}"),
            "logits_median_error": float(f"{self.logits_median_error:.3g}"),
            "identical_tokens": round(self.identical_tokens, 4),
            "positions": self.positions,
        }


# What a target's arithmetic alone may cost: with float16 weights it must be the same model. Targets that compute in
# float16 round between any two operators, by 2^-11. On 4 scenes of the reference inspector that moved the worst of 128
# rows of logits by 0.0016 and the middle one by 0.0002, executed by ONNX Runtime, which like tensor cores adds up in
# float32; errors grow with the root of the depth, and a 13B model is seven times as deep. There is no room for a real
# defect in that: weights of 4 bits move the middle row by 0.04.
ARITHMETIC: Mapping[str, Fidelity] = {
    "float32": Fidelity(0.9999, 1e-3, logits_median_error=1e-3, identical_tokens=1.0, positions=0),
    "float16": Fidelity(0.999, 0.02, logits_median_error=5e-3, identical_tokens=0.98, positions=0),
}

# What rounded weights may cost. Fewer bits must give a recognisable model (a scale or a nibble in the wrong place is
# far outside); whether it is good enough, only an evaluation of its reports can say. So single rows and tokens are
# counted, not judged: the reference inspector's median error is 0.04 with a 4-bit decoder, 0.11 with everything in 4
# bits, 0.15 with an INT8 decoder of entropy ranges, while its worst row is off by 0.4 to 0.9 of the largest logit.
_ANY = float("inf")
_FOUR_BITS = Fidelity(0.95, _ANY, logits_median_error=0.25, identical_tokens=0.0, positions=0)
TOLERANCES: Mapping[str, Fidelity] = {
    "float16": Fidelity(1.0, 0.0, logits_median_error=0.0, identical_tokens=1.0, positions=0),
    "int8": Fidelity(0.95, _ANY, logits_median_error=0.35, identical_tokens=0.0, positions=0),
    "int4": _FOUR_BITS,
    "nf4": _FOUR_BITS,
}


def compare_traces(found: Sequence[Trace], expected: Sequence[Trace]) -> Fidelity:
    """Compare executions of the same inputs, in which ``found`` was led along the tokens of ``expected``."""
    cosines, errors, same = [], [], []
    for ours, theirs in zip(found, expected, strict=True):
        cosines.append(_cosines(ours.features, theirs.features).min())
        differences = np.abs(ours.logits - theirs.logits).max(axis=1)
        errors.append(differences / np.abs(theirs.logits).max(axis=1))
        same.append(ours.logits.argmax(axis=1) == np.array(theirs.tokens))
    matches, rows = np.concatenate(same), np.concatenate(errors)
    worst, middle = float(rows.max()), float(np.median(rows))
    return Fidelity(float(min(cosines)), worst, middle, float(matches.mean()), len(matches))


def outside_tolerance(fidelity: Fidelity, manifest: Manifest, arithmetic: str) -> list[str]:
    """What is wrong, in words; nothing if the bundle is as near to its checkpoint as its precisions allow.

    ``arithmetic`` is its target's, a key of ``ARITHMETIC``.
    """
    vision = [
        ARITHMETIC[arithmetic],
        *(TOLERANCES[c.precision] for c in manifest.components if c.role == "vision_encoder"),
    ]
    every = [ARITHMETIC[arithmetic], *(TOLERANCES[c.precision] for c in manifest.components)]
    cosine = min(tolerance.features_cosine for tolerance in vision)
    worst = max(tolerance.logits_relative_error for tolerance in every)
    middle = max(tolerance.logits_median_error for tolerance in every)
    same = min(tolerance.identical_tokens for tolerance in every)
    complaints = []
    if not fidelity.features_cosine >= cosine:
        complaints.append(f"vision features' cosine is {fidelity.features_cosine:.6f}, below {cosine}")
    if not fidelity.logits_relative_error <= worst:
        complaints.append(f"logits' relative error is {fidelity.logits_relative_error:.2g}, above {worst}")
    if not fidelity.logits_median_error <= middle:
        complaints.append(f"logits' median error is {fidelity.logits_median_error:.2g}, above {middle}")
    if not fidelity.identical_tokens >= same:
        complaints.append(f"{fidelity.identical_tokens:.1%} of tokens are the same, below {same:.0%}")
    return complaints


def _cosines(a: Float32, b: Float32) -> Float32:
    products = (a * b).sum(axis=1)
    cosines: Float32 = products / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines
