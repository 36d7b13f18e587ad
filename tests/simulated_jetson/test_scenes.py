"""The reference inspector on rendered scenes says on the simulated Jetson what it says on any CPU."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import onnx
import pytest

from edge_runtime import Inspector
from edge_runtime.bundle.opening import Bundle, sha256_of_file
from edge_runtime.reports.report import InspectionReport
from engines.build import build
from engines.calibration.images import open_images
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene
from tests.manifests import sealed

pytestmark = pytest.mark.simulated_jetson

REFERENCE = str(Path(__file__).parents[2] / "engines" / "reference" / "checkpoint")


def build_reference(out: Path, target: str, recipe: str, **options: str) -> Bundle:
    images = open_images("rendered:8") if "int8" in recipe else None
    timing = {"timing_cache": out.with_name("timing")}
    return build(open_checkpoint(REFERENCE), load_recipe(recipe), target, out, images=images, **timing, **options)


def reports(bundle: Bundle) -> list[InspectionReport]:
    """Of 50 scenes."""
    with Inspector.open(bundle.path, threads=1) as inspector:
        return [inspector.inspect(render_scene(FIRST_HELD_OUT_SEED + scene).image) for scene in range(50)]


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
    (bundle.path / "bundle.json").write_text(sealed(manifest))
    return bundle


def test_four_bit_reports_are_the_same_token_for_token(tmp_path: Path) -> None:
    found, expected = reports_of_both(tmp_path, "asymmetric-int4")

    assert [words(report) for report in found] == [words(report) for report in expected]


def test_float16_reports_are_the_same_but_for_the_last_digit_of_a_coordinate_in_one_scene_of_twenty_five(
    tmp_path: Path,
) -> None:
    """ONNX Runtime computes in float32: between two numbers as likely as each other, float16 may choose the other."""
    pairs = list(zip(*reports_of_both(tmp_path, "fp16"), strict=True))

    different = [(ours, theirs) for ours, theirs in pairs if words(ours) != words(theirs)]
    assert len(different) <= len(pairs) / 25
    for ours, theirs in different:
        for finding, expected in zip(ours.findings, theirs.findings, strict=True):
            assert replace(finding, region=expected.region, confidence=expected.confidence) == expected
            assert astuple(finding.region) == pytest.approx(astuple(expected.region), abs=0.0101)


def reports_of_both(folder: Path, recipe: str) -> tuple[list[InspectionReport], list[InspectionReport]]:
    on_jetson = build_reference(folder / "jetson", "tensorrt", recipe)
    on_cpu = without_int8_arithmetic(build_reference(folder / "cpu", "onnxruntime", recipe))
    return reports(on_jetson), reports(on_cpu)


def words(report: InspectionReport) -> tuple[object, ...]:
    """All that a model wrote; not how sure it was."""
    return report.tokens, [(f.defect_class, f.severity, f.region, f.description, f.action) for f in report.findings]


@pytest.fixture(scope="module")
def int8_classes_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return classes(build_reference(tmp_path_factory.mktemp("cpu") / "bundle", "onnxruntime", "asymmetric-int8"))


def classes(bundle: Bundle) -> list[list[str]]:
    return [sorted(finding.defect_class for finding in report.findings) for report in reports(bundle)]


@pytest.mark.parametrize("route", ["implicit", "explicit"])
def test_int8_reports_have_the_same_findings(tmp_path: Path, int8_classes_on_cpu: list[list[str]], route: str) -> None:
    found = classes(build_reference(tmp_path / "jetson", "tensorrt", "asymmetric-int8", int8_route=route))

    same = sum(ours == theirs for ours, theirs in zip(found, int8_classes_on_cpu, strict=True))
    assert same >= 0.95 * len(found)
