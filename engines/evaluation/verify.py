"""Whether a bundle is whole, loads, and is still the model it was made from; alters no weight."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime import progress
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest, manifest_to_json
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import open_with_schema
from edge_runtime.errors import BuildError, CheckpointError, VerificationError
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from edge_runtime.reports.schema import ReportSchema
from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.calibration.images import CalibrationImages
from engines.calibration.model import find_model_overflow
from engines.calibration.overflow import LARGEST_FLOAT16
from engines.checkpoint import Checkpoint, DirectoryCheckpoint
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import Fidelity, Trace, compare_traces, outside_tolerance
from engines.evaluation.parity import open_transformers
from engines.families import read_model
from engines.families.base import options_of
from engines.reference.rendered import FIRST_HELD_OUT_SEED, render_scene
from engines.targets import TARGETS

_SCENES = 4
_TOKENS = 32  # decoded an image


@dataclass(frozen=True)
class Verification:
    """What was found of a bundle that is whole and whose engines run."""

    files: int
    images: int  # that were looked at
    fidelity: Fidelity | None
    not_compared: str | None  # why there is no fidelity
    complaints: tuple[str, ...]  # what is outside its tolerance


def verify(
    path: Path, checkpoint: Checkpoint | None, frames: Sequence[NDArray[np.uint8]] | None = None
) -> Verification:
    """Check every file's hash, run every engine, and compare with ``transformers`` where that can be done.

    Of engines that compute in float16, activations that it cannot hold are looked for too, where there is a checkpoint.

    ``frames`` are uint8 (H, W, 3) BGR; without any, scenes are rendered.

    Raises:
        BundleError: a file is missing, altered, or foreign.
        BackendError: an engine does not load or run.
        CheckpointError: the bundle was made from another checkpoint.
        VerificationError: an engine's numbers are not finite.
    """
    bundle = load_bundle(path, verify_hashes=True)
    manifest, model = bundle.manifest, bundle.manifest.model
    if checkpoint is not None and (found := checkpoint.sha256()) != manifest.hashes.checkpoint:
        raise CheckpointError(
            f"{path} was built from another checkpoint than {checkpoint.name}: its hash is {found[:12]}..., and the "
            f"bundle says {str(manifest.hashes.checkpoint)[:12]}...; give the one it was built from, or rebuild"
        )
    if frames is None:
        frames = [render_scene(FIRST_HELD_OUT_SEED + i).image for i in range(_SCENES)]
    seen = [(pixels_from_frame(f, manifest.image), layout_of(manifest.image, *f.shape[:2])) for f in frames]
    prompt = prompt_tokens(load_tokenizer(bundle.file(manifest.tokenizer)), manifest.prompt, model.image_token_id)
    not_compared = _why_not_compared(checkpoint)
    fidelity = None
    with open_bundle_tracer(bundle, prompt) as trace_bundle:
        first, layout = seen[0]
        _check_finite(trace_bundle(first, [model.bos_token_id], layout))
        if isinstance(checkpoint, DirectoryCheckpoint) and not_compared is None:
            trace_reference = open_transformers(checkpoint.path, prompt, model.eos_token_ids)
            progress.begin("running transformers", len(seen))
            expected = []
            for pixels, layout in seen:
                expected.append(trace_reference(pixels, _TOKENS, layout))
                progress.advance(1)
            led = [trace_bundle(p, trace.tokens, layout) for (p, layout), trace in zip(seen, expected, strict=True)]
            fidelity = compare_traces(led, expected)
    target = TARGETS[manifest.target]
    complaints = outside_tolerance(fidelity, manifest, target.arithmetic) if fidelity else []
    if checkpoint is not None and target.computes_float16:
        progress.begin("looking for what float16 cannot hold", 0)
        _, asked = open_with_schema(bundle, None)
        complaints += _overflows(manifest, checkpoint, frames, asked.schema)
    return Verification(len(manifest.files), len(frames), fidelity, not_compared, tuple(complaints))


def record_fidelity(path: Path, fidelity: Fidelity) -> None:
    """Write what was measured into the bundle's manifest, in one step.

    Raises:
        BuildError: the bundle cannot be written.
    """
    manifest = replace(load_bundle(path, verify_hashes=False).manifest, fidelity=fidelity.as_json())
    temporary = path / f"{MANIFEST_NAME}.new"
    try:
        temporary.write_text(manifest_to_json(manifest), encoding="utf-8")
        os.replace(temporary, path / MANIFEST_NAME)
    except OSError as error:
        raise BuildError(f"cannot record the fidelity in {path}: {error}; make it writable, or copy it") from error


def _why_not_compared(checkpoint: Checkpoint | None) -> str | None:
    if checkpoint is None:
        return "no --checkpoint was given"
    if not isinstance(checkpoint, DirectoryCheckpoint):
        return "a synthetic checkpoint is no directory that transformers could load; leave --checkpoint out"
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        return f"{' and '.join(missing)} not installed: pip install '.[parity]' in a checkout"
    return None


def _overflows(
    manifest: Manifest, checkpoint: Checkpoint, frames: Sequence[NDArray[np.uint8]], schema: ReportSchema
) -> list[str]:
    """Layers whose activations exceed float16 on ``frames``, and which were not kept in float32."""
    images = CalibrationImages("the images of this verification", "", len(frames), lambda: iter(frames))
    model = read_model(checkpoint, options=options_of(manifest.image), schema=schema)
    model = replace(model, image=manifest.image)
    found = find_model_overflow(checkpoint, model, images)
    kinds = {part.name: part.role for part in model.parts}
    kept = {(c.role, _layer_of(node)) for c in manifest.components for node in c.float32_nodes}
    return [
        f"{layer or 'a tensor outside of the layers'} of the {kinds[name].replace('_', ' ')} reaches "
        f"{max(overflow.tensors.values()):.3g}, and was built to compute in float16, which ends at "
        f"{LARGEST_FLOAT16:.0f}: build again with --images of such scenes, and it stays in float32"
        for name, overflow in found.items()
        for layer in dict.fromkeys(map(_layer_of, overflow.nodes))
        if (kinds[name], layer) not in kept
    ]


def _layer_of(node: str) -> str:
    """The layer in a node's name, ``layers.3`` of ``layers.3/MatMul_7``; empty for one that is of none."""
    return node.rpartition("/")[0]


def _check_finite(trace: Trace) -> None:
    values = {"features": trace.features, "image embeddings": trace.image_embeddings, "logits": trace.logits}
    if wrong := [name for name, array in values.items() if not np.isfinite(array).all()]:
        raise VerificationError(f"the bundle's {', '.join(wrong)} are not finite; rebuild it from a sound checkpoint")
