"""How near two executions of a model are: what is recorded of one, and the numbers that compare two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.manifest import Manifest

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
    """The worst over all images and rows that were compared."""

    features_cosine: float  # 1 where features point the same way
    logits_relative_error: float  # largest difference of a row, over the row's largest logit
    identical_tokens: float  # share of positions at which the same token is chosen
    positions: int  # of tokens compared

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, for the manifest and for people."""
        return {
            "features_cosine": round(self.features_cosine, 7),
            "logits_relative_error": float(f"{self.logits_relative_error:.3g}"),
            "identical_tokens": round(self.identical_tokens, 4),
            "positions": self.positions,
        }


# Float16 must be the same model. Int4 must be a recognisable one (a scale or a nibble in the wrong place is far
# outside); whether it is good enough, only an evaluation of its reports can say, so its tokens are counted, not judged.
TOLERANCES: Mapping[str, Fidelity] = {
    "float16": Fidelity(features_cosine=0.9999, logits_relative_error=1e-3, identical_tokens=1.0, positions=0),
    "int4": Fidelity(features_cosine=0.95, logits_relative_error=0.5, identical_tokens=0.0, positions=0),
}


def compare_traces(found: Sequence[Trace], expected: Sequence[Trace]) -> Fidelity:
    """Compare executions of the same inputs, in which ``found`` was led along the tokens of ``expected``."""
    cosines, errors, same = [], [], []
    for ours, theirs in zip(found, expected, strict=True):
        cosines.append(_cosines(ours.features, theirs.features).min())
        differences = np.abs(ours.logits - theirs.logits).max(axis=1)
        errors.append((differences / np.abs(theirs.logits).max(axis=1)).max())
        same.append(ours.logits.argmax(axis=1) == np.array(theirs.tokens))
    matches = np.concatenate(same)
    return Fidelity(float(min(cosines)), float(max(errors)), float(matches.mean()), len(matches))


def outside_tolerance(fidelity: Fidelity, manifest: Manifest) -> list[str]:
    """What is wrong, in words; nothing if the bundle is as near to its checkpoint as its precisions allow."""
    vision = _coarsest(manifest, ("vision_encoder",))
    whole = _coarsest(manifest, None)
    complaints = []
    if not fidelity.features_cosine >= vision.features_cosine:
        complaints.append(f"vision features' cosine is {fidelity.features_cosine:.6f}, below {vision.features_cosine}")
    if not fidelity.logits_relative_error <= whole.logits_relative_error:
        complaints.append(
            f"logits' relative error is {fidelity.logits_relative_error:.2g}, above {whole.logits_relative_error}"
        )
    if not fidelity.identical_tokens >= whole.identical_tokens:
        complaints.append(f"{fidelity.identical_tokens:.1%} of tokens are the same, below {whole.identical_tokens:.0%}")
    return complaints


def _coarsest(manifest: Manifest, kinds: tuple[str, ...] | None) -> Fidelity:
    precisions = {c.precision for c in manifest.components if kinds is None or c.kind in kinds}
    return TOLERANCES["int4" if "int4" in precisions else "float16"]


def _cosines(a: Float32, b: Float32) -> Float32:
    products = (a * b).sum(axis=1)
    cosines: Float32 = products / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines
