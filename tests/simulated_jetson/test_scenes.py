"""The reference inspector on rendered scenes says on the simulated Jetson what it says on any CPU."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edge_runtime import Inspector
from edge_runtime.bundle import Bundle, sha256_of_file
from edge_runtime.report import InspectionReport
from engines.build import build
from engines.calibration.images import open_images
from engines.precision import load_recipe
from engines.reference.scenes import FIRST_HELD_OUT_SEED, render_scene
from engines.synthetic import open_checkpoint

pytestmark = pytest.mark.simulated_jetson

REFERENCE = str(Path(__file__).parents[2] / "engines" / "reference" / "checkpoint")


def build_reference(out: Path, target: str, recipe: str, **options: str) -> Bundle:
    images = open_images("rendered:8") if "int8" in recipe else None
    timing = {"timing_cache": out.with_name("timing")}
    return build(open_checkpoint(REFERENCE), load_recipe(recipe), target, out, images=images, **timing, **options)


def reports(bundle: Bundle, scenes: int) -> list[InspectionReport]:
    with Inspector.open(bundle.path, threads=1) as inspector:
        return [inspector.inspect(render_scene(FIRST_HELD_OUT_SEED + scene).image) for scene in range(scenes)]


def without_int8_arithmetic(bundle: Bundle) -> Bundle:
    """The bundle with activations as they are before 4-bit weights, where ONNX Runtime rounds them for speed."""
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    for entry in (entry for component in manifest["components"] for entry in component["files"]):
        path = bundle.path / entry["path"]
        if path.suffix == ".onnx":
            model = onnx.load(path, load_external_data=False)
            for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
                if attribute.name == "accuracy_level":
                    attribute.i = 1
            path.write_bytes(model.SerializeToString())
            entry.update(sha256=sha256_of_file(path), size_bytes=path.stat().st_size)
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    return bundle


def test_four_bit_reports_are_the_same_token_for_token(tmp_path: Path) -> None:
    on_jetson = build_reference(tmp_path / "jetson", "tensorrt", "asymmetric-int4")
    on_cpu = without_int8_arithmetic(build_reference(tmp_path / "cpu", "onnxruntime", "asymmetric-int4"))

    found, expected = (reports(bundle, 50) for bundle in (on_jetson, on_cpu))

    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens
        assert [(f.defect_class, f.severity, f.region, f.description, f.action) for f in ours.findings] == [
            (f.defect_class, f.severity, f.region, f.description, f.action) for f in theirs.findings
        ]


@pytest.fixture(scope="module")
def int8_classes_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return classes(build_reference(tmp_path_factory.mktemp("cpu") / "bundle", "onnxruntime", "asymmetric-int8"))


def classes(bundle: Bundle) -> list[list[str]]:
    return [sorted(finding.defect_class for finding in report.findings) for report in reports(bundle, 20)]


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_int8_reports_have_the_same_findings(tmp_path: Path, int8_classes_on_cpu: list[list[str]], route: str) -> None:
    found = classes(build_reference(tmp_path / "jetson", "tensorrt", "asymmetric-int8", int8_route=route))

    same = sum(ours == theirs for ours, theirs in zip(found, int8_classes_on_cpu, strict=True))
    assert same >= 0.95 * len(found)
