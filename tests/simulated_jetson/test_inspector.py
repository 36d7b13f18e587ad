"""A bundle for TensorRT, built and flown on the simulated Jetson, says what the bundle for any CPU says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import BudgetExceededError, BundleTargetError, Choice, Finding, Inspector
from edge_runtime.bundle.opening import load_bundle, sha256_of_file
from edge_runtime.errors import BackendError
from edge_runtime.memory.monitor import ResourceMonitor
from engines.cli import main as build_command
from tests.edge_runtime.memory.test_monitor import GB, HASTY, LOW, PLENTY, Machine
from tests.manifests import edit
from tests.simulated_jetson import driver

pytestmark = pytest.mark.simulated_jetson

TINY = "synthetic:tiny-llava"
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Bundles by checkpoint, recipe and target, each built once; read-only."""
    folder, built = tmp_path_factory.mktemp("bundles"), {}

    def build(checkpoint: str, recipe: str, target: str, *frames: str) -> Path:
        key = (checkpoint, recipe, target)
        if key not in built:
            out = folder / str(len(built))
            where = ["--timing-cache", str(folder / "timing")] if target == "tensorrt" else []
            command = ["build", checkpoint, "--recipe", recipe, "--target", target, "--out", str(out), *where]
            command += [f"--frame={frame}" for frame in frames]
            assert build_command(command) == 0
            built[key] = out
        return built[key]

    return build


@pytest.fixture
def bundle(build: Build) -> Path:
    return build(TINY, "asymmetric-int4", "tensorrt")


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(bundle, tmp_path / "bundle")


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def said(finding: Finding) -> tuple[object, ...]:
    """A finding but for its confidence, which float16 rounds."""
    return (finding.defect_class, finding.severity, finding.region, finding.description, finding.action)


@pytest.mark.parametrize("checkpoint", ["synthetic:tiny-smolvlm", "synthetic:tiny-internvl-qwen3"])
def test_every_family_reports_as_by_the_bundle_for_any_cpu(build: Build, checkpoint: str) -> None:
    reports = []
    for target in ("tensorrt", "onnxruntime"):
        with Inspector.open(build(checkpoint, "fp16", target), threads=1, max_report_tokens=40) as inspector:
            reports.append(inspector.inspect(frame()))
    on_jetson, on_cpu = reports
    assert (on_jetson.grid, on_jetson.image_tokens) == (on_cpu.grid, on_cpu.image_tokens)
    assert list(map(said, on_jetson.findings)) == list(map(said, on_cpu.findings))
    assert on_jetson.tokens == on_cpu.tokens > 0


@pytest.mark.parametrize(("height", "width"), [(96, 96), (72, 128), (128, 72), (60, 180)])
def test_a_frame_in_tiles_is_reported_as_by_the_bundle_for_any_cpu(build: Build, height: int, width: int) -> None:
    reports = []
    for target in ("tensorrt", "onnxruntime"):
        with Inspector.open(
            build("synthetic:tiny-llava-next", "fp16", target), threads=1, max_report_tokens=40
        ) as inspector:
            reports.append(inspector.inspect(picture(height, width)))
    on_jetson, on_cpu = reports
    assert (on_jetson.grid, on_jetson.image_tokens) == (on_cpu.grid, on_cpu.image_tokens)
    assert [*map(said, on_jetson.findings)] == [*map(said, on_cpu.findings)]
    assert on_jetson.tokens == on_cpu.tokens


@pytest.mark.parametrize(
    ("name", "recipe"), [("qwen3-vl", "fp16"), ("qwen3-vl", "asymmetric-int4"), ("qwen2.5-vl", "fp16")]
)
def test_frames_of_their_own_shape_are_reported_as_by_the_bundle_for_any_cpu(
    build: Build, name: str, recipe: str
) -> None:
    reports = []
    for target in ("tensorrt", "onnxruntime"):
        bundle = build(f"synthetic:tiny-{name}", recipe, target, "160x90", "90x160", "96x96")
        with Inspector.open(bundle, threads=1, max_report_tokens=40) as inspector:
            reports.append([inspector.inspect(picture(*size)) for size in ((90, 160), (160, 90), (96, 96), (90, 160))])
    for on_jetson, on_cpu in zip(*reports, strict=True):
        assert (on_jetson.grid, on_jetson.image_tokens) == (on_cpu.grid, on_cpu.image_tokens)
        assert [*map(said, on_jetson.findings)] == [*map(said, on_cpu.findings)]
        assert on_jetson.tokens == on_cpu.tokens


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4", "uniform-int4"])
def test_reports_are_those_of_the_bundle_for_any_cpu(build: Build, recipe: str) -> None:
    reports = []
    for target in ("tensorrt", "onnxruntime"):
        with Inspector.open(build(TINY, recipe, target), threads=1, max_report_tokens=110) as inspector:
            reports.append([inspector.inspect(frame(seed)) for seed in range(3)])
    for ours, theirs in zip(*reports, strict=True):
        assert [said(finding) for finding in ours.findings] == [said(finding) for finding in theirs.findings]
        assert (ours.tokens, ours.truncated) == (theirs.tokens, theirs.truncated)


def test_a_frame_is_judged_alike_whatever_came_before_it(bundle: Path) -> None:
    with Inspector.open(bundle) as inspector:
        first = inspector.inspect(frame(0)).findings
        inspector.inspect(frame(1))
        assert inspector.inspect(frame(0)).findings == first


def test_a_prompt_longer_than_a_step_runs_in_several(bundle_copy: Path, bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    edit(bundle_copy, build={**manifest["build"], "step_tokens": "7"})
    reports = []
    for path in (bundle, bundle_copy):
        with Inspector.open(path, max_report_tokens=30) as inspector:
            reports.append(inspector.inspect(frame(), question="cracks? bolts?"))
    assert list(map(said, reports[0].findings)) == list(map(said, reports[1].findings))
    assert reports[0].tokens == reports[1].tokens


def test_decoding_is_one_graph_launch_a_token(build: Build) -> None:
    with Inspector.open(build(TINY, "fp16", "tensorrt"), max_report_tokens=110) as inspector:
        inspector.inspect(frame(0))
        before = driver.count("graph_launches")
        inspector.inspect(frame(1))
        launched = driver.count("graph_launches") - before
    assert 20 < launched <= 110


def test_what_is_closed_leaves_nothing_and_opens_again(bundle: Path) -> None:
    nothing = driver.alive()
    for _ in range(3):
        with Inspector.open(bundle, max_report_tokens=20) as inspector:
            assert driver.alive() != nothing
            inspector.inspect(frame())
        assert driver.alive() == nothing


def test_two_inspectors_share_the_device_and_one_may_close(bundle: Path) -> None:
    nothing = driver.alive()
    with Inspector.open(bundle, max_report_tokens=20) as stays:
        before = stays.inspect(frame()).findings
        with Inspector.open(bundle, max_report_tokens=20) as goes:
            assert goes.inspect(frame()).findings == before
        assert stays.inspect(frame()).findings == before
    assert driver.alive() == nothing


def test_what_cannot_be_opened_leaves_nothing(bundle_copy: Path) -> None:
    nothing = driver.alive()
    head = next(bundle_copy.glob("lm_head*.engine"))
    head.write_bytes(b"\0" * head.stat().st_size)
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    for component in manifest["components"]:
        for entry in component["files"]:
            if entry["path"] == head.name:
                entry["sha256"] = sha256_of_file(head)
    edit(bundle_copy, **manifest)
    with pytest.raises(BackendError, match="cannot load lm_head"):
        Inspector.open(bundle_copy)
    assert driver.alive() == nothing


def test_a_question_is_answered_as_on_any_cpu(build: Build) -> None:
    choice, replies = Choice(("yes", "yes, certainly", "no")), []
    for target in ("onnxruntime", "tensorrt"):
        with Inspector.open(build(TINY, "fp16", target), threads=1) as inspector:
            report = inspector.inspect(frame())
            first = inspector.ask(frame(), "Is there a person?", choice)
            assert inspector.ask(frame(), "Is there a person?", choice).choices == pytest.approx(
                first.choices, rel=1e-3
            )
            assert inspector.inspect(frame()).findings == report.findings
            replies.append(first.choices)
    assert list(replies[1].values()) == pytest.approx(list(replies[0].values()), abs=0.02)


def test_every_byte_of_the_device_is_in_the_memory_plan(bundle: Path) -> None:
    with Inspector.open(bundle, max_report_tokens=20) as inspector:
        inspector.inspect(frame())
        memory_plan = inspector.memory_plan
        on_device = memory_plan.measured_bytes - (memory_plan.item("process").measured_bytes or 0)
        assert on_device == driver.count("device_bytes") + driver.count("host_bytes")
    # The process is that of all tests before this one too: it is left out.
    assert on_device < memory_plan.planned_bytes - memory_plan.item("process").planned_bytes


def test_a_cache_that_shrinks_under_pressure_gives_its_memory_back(build: Build) -> None:
    machine = Machine(PLENTY)
    on_device, found = [], []
    with Inspector.open(build(TINY, "fp16", "tensorrt"), monitor=ResourceMonitor(HASTY, machine)) as inspector:
        for reading in (PLENTY, LOW, LOW, PLENTY):
            machine.now = reading
            inspector.monitor.poll()
            machine.now = replace(PLENTY, available_bytes=GB + 1) if reading == LOW else PLENTY
            found.append(inspector.inspect(frame()))
            on_device.append(driver.count("device_bytes") + driver.count("host_bytes"))
    assert on_device[2] < on_device[0]
    assert found[2].tokens < found[0].tokens
    assert on_device[3] <= on_device[0]


def test_weights_weigh_on_the_device_what_was_planned(build: Build) -> None:
    with Inspector.open(build(TINY, "fp16", "tensorrt"), max_report_tokens=20) as inspector:
        items = {item.name: item for item in inspector.memory_plan.items}
    for kind in ("vision_encoder", "connector", "decoder", "lm_head"):
        assert items[kind].measured_bytes == pytest.approx(items[kind].planned_bytes, rel=0.1)


def test_a_budget_that_the_engines_outgrow_is_refused_with_the_memory_plan(bundle: Path) -> None:
    nothing = driver.alive()
    with Inspector.open(bundle) as inspector:
        planned_bytes = inspector.memory_plan.planned_bytes
    with pytest.raises(BudgetExceededError, match=r"vision_encoder +\d"):
        Inspector.open(bundle, budget=planned_bytes - 1)
    assert driver.alive() == nothing


def test_a_device_that_is_full_is_told_with_the_memory_plan(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = driver.alive()
    monkeypatch.setenv("SIMULATED_JETSON_BYTES", "400000")
    with pytest.raises(BudgetExceededError, match=r"(?s)the device has no .* bytes left.*kv_cache"):
        Inspector.open(bundle, budget="2GB")
    assert driver.alive() == nothing


def test_a_device_too_small_for_the_plan_is_refused_before_anything_is_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing, peak_bytes = driver.alive(), driver.count("peak_bytes")
    monkeypatch.setenv("SIMULATED_JETSON_BYTES", "600000000")
    with pytest.raises(BudgetExceededError, match=r"(?s)more than the budget of 600\.00 MB.*kv_cache"):
        Inspector.open(bundle)
    assert (driver.alive(), driver.count("peak_bytes")) == (nothing, peak_bytes)


def test_the_command_ends_with_code_4_and_the_memory_plan_where_a_budget_is_too_small(bundle: Path) -> None:
    command = [sys.executable, "-m", "edge_runtime.cli", "inspect", str(bundle), "none.jpg", "--budget", "0.5GB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert "kv_cache" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_weights_than_an_orin_nx_has_memory_are_refused_before_a_byte_is_read(bundle_copy: Path) -> None:
    """A decoder of 20 GB, nearly all of which is a hole in its file."""
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    [decoder] = [component for component in manifest["components"] if component["role"] == "decoder"]
    decoder["files"][0]["size_bytes"] = 20 * GB
    os.truncate(bundle_copy / decoder["files"][0]["path"], 20 * GB)
    edit(bundle_copy, components=manifest["components"])

    nothing, peak_bytes = driver.alive(), driver.count("peak_bytes")
    with pytest.raises(BudgetExceededError, match=r"(?s)more than the budget of 16\.\d\d GB.*decoder +20\.\d\d GB"):
        Inspector.open(bundle_copy)
    assert (driver.alive(), driver.count("peak_bytes")) == (nothing, peak_bytes)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tensorrt": "9.0.0"}, r"built by TensorRT 9\.0\.0, and here is 10\."),
        ({"compute_capability": "8.6,8.9"}, r"compute capability 8\.6,8\.9, and this Orin \(simulated\) has 8\.7"),
        ({"tensorrt": None}, "built by TensorRT None"),
    ],
)
def test_engines_for_something_else_are_refused_by_name_with_what_mends_it(
    bundle_copy: Path, other: dict[str, object], says: str
) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    edit(bundle_copy, build={**manifest["build"], **other})
    with pytest.raises(BundleTargetError, match=rf"{says}.*edge-engines build CHECKPOINT --recipe asymmetric-int4"):
        Inspector.open(bundle_copy)


def test_numbers_that_overflow_are_told_and_the_next_frame_is_inspected(bundle: Path) -> None:
    with Inspector.open(bundle, max_report_tokens=20) as inspector:
        before = inspector.inspect(frame())
        pixels = inspector.bundle.manifest.image.pixels
        object.__setattr__(pixels, "std", (1e-9, 1e-9, 1e-9))  # pixels beyond float16
        with pytest.raises(BackendError, match="NaN"):
            inspector.inspect(frame())
        object.__setattr__(pixels, "std", load_bundle(bundle).manifest.image.pixels.std)
        assert inspector.inspect(frame()).findings == before.findings
