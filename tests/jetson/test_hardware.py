"""TensorRT's own kernels say what ONNX Runtime says, inside the planned bytes, at a speed that is written down."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import tensorrt as trt

from edge_runtime import Inspector
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.cli.doctor import examine
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from edge_runtime.memory.telemetry import read_memory
from edge_runtime.reports.report import InspectionReport
from edge_runtime.vision.image_processors import pixels_from_frame
from engines.calibration.cache import scales_from_text
from engines.calibration.scales import calibrate_on_cpu
from engines.evaluation.execution import open_bundle_tracer
from engines.evaluation.fidelity import Trace, compare_traces, outside_tolerance
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe
from engines.reference.answers import answer_tokens
from engines.reference.renderer.scenes import render_scene
from engines.targets import TARGETS
from tests.engines.calibration.graphs import emit_parts
from tests.engines.calibration.test_entropy_calibrator import calibrated_build, walk_before
from tests.jetson.machine import CHECKPOINT, MemoryWatch, build, is_simulated

everywhere = [pytest.mark.jetson, pytest.mark.simulated_jetson]
IMPLICIT, EXPLICIT = ("--int8-route", "implicit"), ("--int8-route", "explicit")
SIZES = [  # of the routes that a recipe can go, and the share of scenes in which the same defects must be found
    pytest.param("fp16", (), 0.98, marks=everywhere, id="fp16"),
    pytest.param("asymmetric-int4", (), 0.95, marks=everywhere, id="int4"),
    pytest.param("asymmetric-int8", IMPLICIT, 0.95, marks=pytest.mark.jetson, id="int8-implicit"),
    pytest.param("asymmetric-int8", EXPLICIT, 0.95, marks=pytest.mark.jetson, id="int8-explicit"),
]
Built = Callable[..., Path]
Figures = dict[str, object]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("bundles")
    return lambda recipe, target, *options: build(folder, recipe, target, *options)


def reports(bundle: Path, scenes: int) -> list[InspectionReport]:
    with Inspector.open(bundle) as inspector:
        return [inspector.inspect(render_scene(10_000 + seed).image) for seed in range(scenes)]


def defects(report: InspectionReport) -> list[tuple[str, str]]:
    return [(finding.defect_class, finding.severity) for finding in report.findings]


def words(report: InspectionReport) -> list[tuple[object, ...]]:
    return [(f.defect_class, f.severity, f.region, f.description, f.action) for f in report.findings]


@pytest.mark.parametrize(("recipe", "route", "least"), SIZES)
def test_engines_find_what_onnxruntime_finds(
    built: Built, figures: Figures, recipe: str, route: tuple[str, ...], least: float
) -> None:
    scenes = int(os.environ.get("SCENES", 2 if is_simulated() else 50))
    ours = reports(built(recipe, "tensorrt", *route), scenes)
    theirs = reports(built(recipe, "onnxruntime"), scenes)
    pairs = list(zip(ours, theirs, strict=True))
    name = " ".join((recipe, *route[1:]))
    figures[f"{name}: reports word for word those of onnxruntime"] = np.mean([words(a) == words(b) for a, b in pairs])
    found = figures[f"{name}: reports with the same defects"] = np.mean([defects(a) == defects(b) for a, b in pairs])
    assert found >= least


@pytest.mark.jetson
@pytest.mark.simulated_jetson
def test_float16_arithmetic_costs_no_more_than_verifying_allows(built: Built, figures: Figures) -> None:
    ours, theirs = (traces(built("fp16", target)) for target in ("tensorrt", "onnxruntime"))
    fidelity = compare_traces(ours, theirs)
    figures["fp16: how far off float16's arithmetic is"] = fidelity.as_json()
    manifest = load_bundle(built("fp16", "tensorrt")).manifest
    assert outside_tolerance(fidelity, manifest, TARGETS["tensorrt"].arithmetic) == []


def traces(path: Path) -> list[Trace]:
    """What a bundle makes of 4 scenes, led along an answer; the tokens are those that it would choose."""
    bundle = load_bundle(path)
    manifest, found = bundle.manifest, []
    tokenizer = load_tokenizer(bundle.file(manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, manifest.prompt, manifest.model.image_token_id)
    [answer] = answer_tokens(tokenizer, answers=1)
    with open_bundle_tracer(bundle, prompt) as trace:
        for seed in range(4):
            seen = trace(pixels_from_frame(render_scene(10_000 + seed).image, manifest.image), answer)
            found.append(replace(seen, tokens=tuple(seen.logits.argmax(axis=1).tolist())))
    return found


@pytest.mark.jetson
@pytest.mark.simulated_jetson
@pytest.mark.skipif(not hasattr(trt, "IInt8EntropyCalibrator2"), reason="calibrators ended with TensorRT 10")
def test_tensorrt_finds_the_ranges_that_the_cpu_finds(figures: Figures, tmp_path: Path) -> None:
    images = "rendered:3" if is_simulated() else "rendered:64"
    parts = emit_parts(tmp_path, TensorRTLowering)
    apart: list[float] = []
    for name in ("vision_encoder", "decoder.00"):
        with walk_before(name, parts, images) as walk:
            assert calibrated_build(walk, parts[name], tmp_path / "tensorrt" / name)
        tensorrts = scales_from_text((tmp_path / "tensorrt" / name).read_text())
        with walk_before(name, parts, images) as walk:
            ours = calibrate_on_cpu(walk, parts[name], tmp_path / "cpu" / name, trt.__version__)
        assert ours.keys() <= tensorrts.keys()
        apart += [abs(tensorrts[tensor] / ours[tensor] - 1) for tensor in ours]
    figures["int8 ranges: median distance between TensorRT's and the CPU's"] = round(median(apart), 4)
    figures["int8 ranges: share of them less than 5 % apart"] = float(np.mean(np.array(apart) < 0.05))
    assert median(apart) < 0.05


@pytest.mark.jetson
@pytest.mark.simulated_jetson
def test_decoding_becomes_a_cuda_graph(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edge_runtime"):
        reports(built("asymmetric-int4", "tensorrt"), 1)
    assert "no CUDA graph" not in caplog.text


@pytest.mark.jetson
@pytest.mark.simulated_jetson
def test_the_profiles_of_a_decoder_store_its_weights_once(built: Built, figures: Figures) -> None:
    bundle = load_bundle(built("fp16", "tensorrt"))
    plan = plan_bundle(open_checkpoint(str(CHECKPOINT)), load_recipe("fp16"), "tensorrt")
    stored, planned = (m.decoder_groups[0].size_bytes for m in (bundle.manifest, plan.manifest))
    figures["fp16: bytes of a decoder with two profiles, and as planned"] = [stored, planned]
    assert stored < 1.5 * planned


@pytest.mark.jetson
def test_a_timing_cache_shortens_the_next_build(figures: Figures, tmp_path: Path) -> None:
    seconds = []
    for _ in range(2):
        started_s = time.monotonic()
        shutil.rmtree(build(tmp_path, "fp16", "tensorrt"))
        seconds.append(round(time.monotonic() - started_s, 1))
    figures["seconds to build fp16, and again with a timing cache"] = seconds
    assert seconds[1] < seconds[0]


@pytest.mark.jetson
def test_the_machine_loses_what_the_memory_plan_says(built: Built, figures: Figures) -> None:
    with MemoryWatch() as watch, Inspector.open(built("asymmetric-int4", "tensorrt")) as inspector:
        inspector.inspect(render_scene(1).image)
        memory_plan = inspector.memory_plan
    figures["bytes: planned, measured by the memory plan, taken from the machine at the worst moment"] = [
        memory_plan.planned_bytes,
        memory_plan.measured_bytes,
        watch.taken_bytes,
    ]
    assert watch.taken_bytes < memory_plan.planned_bytes


@pytest.mark.jetson
def test_closing_gives_the_memory_back(built: Built, figures: Figures) -> None:
    bundle = built("asymmetric-int4", "tensorrt")
    reports(bundle, 1)  # libraries stay loaded
    before_bytes = read_memory().available_bytes
    for _ in range(10):
        reports(bundle, 1)
    gc.collect()
    lost_bytes = before_bytes - read_memory().available_bytes
    figures["bytes lost by opening and closing 10 times"] = lost_bytes
    assert lost_bytes < 100_000_000


@pytest.mark.jetson
@pytest.mark.simulated_jetson
def test_the_doctor_finds_a_bundle_on_the_device_whole(built: Built, figures: Figures) -> None:
    checks = examine(built("asymmetric-int4", "tensorrt"))
    figures["doctor"] = {check.name: check.found for check in checks}
    assert not [check for check in checks if check.is_problem]


@pytest.mark.jetson
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_speed_is_written_down(built: Built, figures: Figures, target: str) -> None:
    """Of the reference inspector, and of the bundle in the environment variable ``BUNDLE``."""
    bundles = {"reference": built("asymmetric-int4", target)}
    if target == "tensorrt" and (own := os.environ.get("BUNDLE")):
        bundles[own] = Path(own)
    for name, bundle in bundles.items():
        with MemoryWatch() as watch, Inspector.open(bundle) as inspector:
            frames = [render_scene(seed).image for seed in range(10)]
            inspector.inspect(frames[0])
            started_s = time.monotonic()
            seen = [inspector.inspect(frame) for frame in frames]
            wall_ms = 1e3 * (time.monotonic() - started_s)
        steps = {
            step: round(median(getattr(report.timings, step) for report in seen), 2)
            for step in ("preprocess_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms")
        }
        tokens_a_second = sum(report.tokens for report in seen) / sum(r.timings.decode_ms / 1e3 for r in seen)
        figures[f"{name} on {target}"] = {
            **steps,
            "tokens_per_s": round(tokens_a_second, 1),
            "taken_bytes": watch.taken_bytes,
        }
        told_ms = sum(report.timings.total_ms for report in seen)
        assert told_ms == pytest.approx(wall_ms, rel=0.1)  # frames took what their reports say
