"""What INT8 costs the vision encoder: a convolutional classifier, and the reference inspector's vision encoder part by
part.

    python -m benchmarks.bench_vision [--scenes 1000] [--traced 12] [--out docs/quantization-vision.md]

The classifier is ``engines/reference/classifier.onnx``; ONNX Runtime's own quantizer stands beside ours. The encoder is
built by recipes that differ in it alone, so that all that moves is what the decoder is shown.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import quantization as ort
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.vision.image_processors import squeeze
from engines.build import build
from engines.calibration.classifier import IMAGENET_MEAN, IMAGENET_STD, PIXEL_SCALES, quantize_classifier
from engines.calibration.images import open_images
from engines.evaluation.fidelity import Trace
from engines.evaluation.sensitivity.outcomes import divergence
from engines.evaluation.sensitivity.scoring import traces
from engines.families.synthetic import open_checkpoint
from engines.quantize.activation_ranges import RANGE_METHODS
from engines.quantize.recipe import load_recipe
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene
from engines.reference.training.classification import CLASSIFIER, labelled_scenes

Float32 = NDArray[np.float32]

CHECKPOINT = Path(__file__).parents[1] / "engines" / "reference" / "checkpoint"
FIRST_SEED = FIRST_HELD_OUT_SEED + 3_000_000  # of scenes that no other measurement is made on
CALIBRATION_SEEDS = range(2_000_000_000, 2_000_000_200)
_SPEC = PixelSpec(96, 96, 2, 1 / 255, IMAGENET_MEAN, IMAGENET_STD)
_ALONE = '{{dtype: float16, except: {{"{}": {{dtype: int8, method: {}}}}}}}'
_EVERYTHING = '{{dtype: int8, method: {0}, except: {{"*.products": {{dtype: int8, method: {0}}}}}}}'
ENCODERS: Mapping[str, str] = {
    "float16": "float16",
    **{f"all, {m}": f"{{dtype: int8, method: {m}}}" for m in (*RANGE_METHODS, "smooth-mse", "twin-mse")},
    **{f"feed-forward, {m}": _ALONE.format("*.mlp.*", m) for m in RANGE_METHODS},
    **{f"feed-forward, twin ranges by {m}": _ALONE.format("*.mlp.*", f"twin-{m}") for m in RANGE_METHODS},
    **{f"products, {m}": _ALONE.format("*.products", m) for m in RANGE_METHODS},
    **{f"products, twin ranges by {m}": _ALONE.format("*.products", f"twin-{m}") for m in RANGE_METHODS},
    **{f"all and products, {m}": _EVERYTHING.format(m) for m in ("mse", "twin-mse")},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000, help="for the classifier (%(default)s)")
    parser.add_argument("--traced", type=int, default=12, help="scenes for the encoder (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/quantization-vision.md"), help="(%(default)s)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    lines = ["# What INT8 costs the vision encoder", "", "Made by `python -m benchmarks.bench_vision`.", ""]
    with tempfile.TemporaryDirectory() as folder:
        for table in (classifier_table(Path(folder), args.scenes), encoder_table(Path(folder), args.traced)):
            for line in table:
                lines.append(line)
                args.out.write_text("\n".join([*lines, ""]), encoding="utf-8")
            lines.append("")
    return 0


def classifier_table(folder: Path, scenes: int) -> Iterator[str]:
    """Accuracy of the classifier, and how often it says what it says in float32."""
    frames, classes = zip(*labelled_scenes(range(FIRST_SEED, FIRST_SEED + scenes)), strict=True)
    seen = [frame for frame, _ in labelled_scenes(CALIBRATION_SEEDS)]
    plain = answers(CLASSIFIER, frames)
    yield "## A convolutional classifier"
    yield ""
    yield f"A ResNet of 176 thousand parameters, its head in float32 throughout, on {scenes} scenes that nothing was"
    yield f"trained or calibrated on; ranges from {len(seen)} others. Points are of a hundred; one answer is"
    yield f"{100 / scenes:.2f} of them."
    yield ""
    yield "| precision | right | points lost | answers as float32's | bytes |"
    yield "|---|---:|---:|---:|---:|"

    def row(name: str, path: Path) -> str:
        found = answers(path, frames)
        right, lost = np.mean(found == classes), 100 * (np.mean(plain == classes) - np.mean(found == classes))
        return f"| {name} | {right:.4f} | {lost:.2f} | {np.mean(found == plain):.4f} | {path.stat().st_size:,} |"

    yield row("float32", CLASSIFIER)
    for scale in ("channel", "tensor"):
        for method in RANGE_METHODS:
            path = folder / f"{scale}.{method}.onnx"
            quantize_classifier(
                CLASSIFIER, seen, path, pixels=PIXEL_SCALES["imagenet"], method=method, per_tensor=scale == "tensor"
            )
            yield row(f"a scale a {scale}, {method}", path)
    for scale in ("channel", "tensor"):
        yield row(f"a scale a {scale}, by ONNX Runtime", by_onnxruntime(folder, seen, per_channel=scale == "channel"))


def by_onnxruntime(folder: Path, seen: list[NDArray[np.uint8]], *, per_channel: bool) -> Path:
    """ONNX Runtime's quantizer as its documentation has it: preprocessed, then by the largest magnitudes."""

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self._frames = iter(seen)

        def get_next(self) -> dict[str, Float32] | None:
            frame = next(self._frames, None)
            return None if frame is None else {"pixels": squeeze(frame, _SPEC)}

    prepared, result = folder / "prepared.onnx", folder / f"onnxruntime.{per_channel}.onnx"
    quant_pre_process(str(CLASSIFIER), str(prepared), skip_symbolic_shape=True)
    ort.quantize_static(str(prepared), str(result), Reader(), per_channel=per_channel)
    return result


def answers(path: Path, frames: tuple[NDArray[np.uint8], ...]) -> NDArray[np.intp]:
    """The class that a classifier sees in each frame."""
    engine = OnnxRuntimeBackend(threads=1).load(path)
    found = [int(engine.evaluate({"pixels": squeeze(frame, _SPEC)})["logits"].argmax()) for frame in frames]
    engine.close()
    return np.array(found)


def encoder_table(folder: Path, traced: int) -> Iterator[str]:
    """How far features and the decoder's choices move, by what of the encoder is INT8."""
    checkpoint, images = open_checkpoint(str(CHECKPOINT)), open_images("rendered:48")
    scenes = [render_scene(FIRST_SEED + index) for index in range(traced)]
    yield "## The vision encoder"
    yield ""
    yield f"The reference inspector's, all else in float16, on {traced} scenes; ranges from {len(images)} others."
    yield "Features: their distance to float16's over their length, patches' mean. Divergence: nats an unforced token."
    yield "`all` is all matrices; `feed-forward` keeps those of attention and patches in float16, and is two thirds of"
    yield "the weights. `products` is what attention multiplies between its matrices, queries with keys and a softmax's"
    yield "output with values: it stays floating point unless a recipe names it, and alone leaves every matrix in"
    yield "float16. Twin ranges (PTQ4ViT) round by a scale each, in two products, what a GELU leaves below zero and"
    yield "above it, and what a softmax leaves below 1/16 and above it."
    yield ""
    yield "| in INT8 | features | divergence | bytes |"
    yield "|---|---:|---:|---:|"
    reference: list[Trace] = []
    for name, precision in ENCODERS.items():
        recipe = folder / "recipe.yaml"
        others = "".join(f"  {kind}: float16\n" for kind in ("connector", "embedding", "decoder", "lm_head"))
        recipe.write_text(f"components:\n  vision_encoder: {precision}\n{others}")
        plan = load_recipe(str(recipe))
        bundle = build(
            checkpoint, plan, "onnxruntime", folder / "bundle", images=images if plan.has_int8 else None, force=True
        )
        found = traces(bundle.path, scenes)
        reference = reference or found
        pairs = list(zip(found, reference, strict=True))
        features, nats = np.mean([_distance(*p) for p in pairs]), np.mean([divergence(*p) for p in pairs])
        yield f"| {name} | {features:.4f} | {nats:.5f} | {bundle.manifest.component('vision_encoder').size_bytes:,} |"


def _distance(found: Trace, reference: Trace) -> float:
    moved = np.linalg.norm(found.features - reference.features, axis=1)
    return float((moved / np.linalg.norm(reference.features, axis=1)).mean())


if __name__ == "__main__":
    sys.exit(main())
