"""A bundle loads whole or not at all, and what is refused says why and what mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle.manifest import CoordinateSpec, manifest_to_json
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.bundle.report_schema import AskedSchema, load_asked_schema
from edge_runtime.bundle.validation import manifest_from_json
from edge_runtime.errors import (
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleTargetError,
    BundleVersionError,
)
from edge_runtime.reports.report import answer_schema
from edge_runtime.reports.schema import BRIDGE
from tests.manifests import edit, sealed
from tests.parity.golden_processors import RECORDS


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_whole_bundle_loads_with_its_hashes_verified(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, target="onnxruntime", verify_hashes=True)
    assert bundle.manifest.size_bytes == sum(bundle.file(entry).stat().st_size for entry in bundle.manifest.files)


def link_files(bundle: Path, cache: Path, folder_of: Callable[[int], str]) -> None:
    """Move a bundle's files into folders of ``cache``, and leave links, as DVC and git-annex do."""
    for index, file in enumerate(sorted(bundle.iterdir())):
        kept = cache / folder_of(index) / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        file.rename(kept)
        file.symlink_to(kept)


def test_a_bundle_of_links_that_no_engine_follows_is_refused_with_how_to_unlink_it(
    bundle_copy: Path, tmp_path: Path
) -> None:
    link_files(bundle_copy, tmp_path / "cache", lambda index: f"{index:02}")

    with pytest.raises(BundleCorruptError, match=r"links into different folders.*dvc checkout.*git annex unlock"):
        load_bundle(bundle_copy)


def test_a_bundle_of_links_into_one_folder_loads(bundle_copy: Path, tmp_path: Path) -> None:
    link_files(bundle_copy, tmp_path / "cache", lambda index: "all")

    load_bundle(bundle_copy)


def test_a_link_to_a_bundle_loads(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle_copy)

    load_bundle(tmp_path / "current")


def test_a_manifest_survives_being_written_and_read(tiny_bundle: Path) -> None:
    manifest = load_bundle(tiny_bundle).manifest
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


def test_fields_that_a_later_builder_adds_are_ignored(bundle_copy: Path) -> None:
    edit(bundle_copy, weather="fine")
    load_bundle(bundle_copy)


def test_fields_that_an_earlier_builder_did_not_know_have_their_defaults(bundle_copy: Path) -> None:
    components = json.loads((bundle_copy / "bundle.json").read_text())["components"]
    edit(bundle_copy, components=[{k: v for k, v in c.items() if k != "float32_nodes"} for c in components])
    assert {component.float32_nodes for component in load_bundle(bundle_copy).manifest.components} == {()}


@pytest.mark.parametrize("path", ["nowhere", "", "nul\0byte", "x" * 5000])
def test_a_missing_directory_is_refused_with_the_command_that_builds_one(path: str, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="edge-engines build"):
        load_bundle(f"{tmp_path}/{path}")


def test_a_file_in_the_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleNotFoundError, match="no bundle directory"):
        load_bundle(tmp_path / "model.gguf")


def test_an_interrupted_build_is_refused_and_recognised(bundle_copy: Path) -> None:
    (bundle_copy / "bundle.json").unlink()
    with pytest.raises(BundleNotFoundError, match="interrupted build"):
        load_bundle(bundle_copy.rename(bundle_copy.with_suffix(".partial")))


def test_a_missing_file_is_refused_by_name(bundle_copy: Path) -> None:
    (bundle_copy / "connector.onnx.data").unlink()
    with pytest.raises(BundleNotFoundError, match=r"connector\.onnx\.data is missing"):
        load_bundle(bundle_copy)


def test_a_file_of_another_size_is_refused_without_hashing(bundle_copy: Path) -> None:
    with (bundle_copy / "connector.onnx.data").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleCorruptError, match="bytes, expected"):
        load_bundle(bundle_copy, verify_hashes=False)


def test_a_flipped_bit_is_found_by_hash_at_open(bundle_copy: Path) -> None:
    flip_a_bit(bundle_copy / "decoder.00.onnx.data")
    with pytest.raises(BundleCorruptError, match=r"decoder\.00\.onnx\.data was altered"):
        load_bundle(bundle_copy)


def test_a_newer_schema_is_refused_with_the_upgrade_command(bundle_copy: Path) -> None:
    edit(bundle_copy, schema_version=3)
    with pytest.raises(BundleVersionError, match="pip install --upgrade"):
        load_bundle(bundle_copy)


def test_a_newer_schema_is_recognised_whatever_else_it_holds() -> None:
    with pytest.raises(BundleVersionError):
        manifest_from_json('{"schema_version": 7, "components": "elsewhere"}')


def test_an_older_schema_is_refused_with_the_command_that_builds_it_anew(bundle_copy: Path) -> None:
    edit(bundle_copy, schema_version=1)
    with pytest.raises(BundleVersionError, match="edge-engines build CHECKPOINT"):
        load_bundle(bundle_copy)


def test_a_manifest_that_was_edited_by_hand_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    path.write_text(path.read_text().replace('"rescale_factor": 0.00392', '"rescale_factor": 0.10392'))
    with pytest.raises(BundleCorruptError, match="was altered"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("task",), "sing", "task is 'sing', and this runtime does generate"),
        (("image", "kind"), "mosaic", "image.kind is 'mosaic', expected native or single or tiles"),
        (("image", "fit"), "stretch", "image.fit is 'stretch', expected letterbox, squeeze, crop"),
        (("image", "fill"), [0, 0, 256], "image.fill is no colour"),
        (("image", "pixels", "rescale_factor"), -1.0, "rescale_factor is -1.0, expected a positive number"),
        (("image", "pixels", "resample"), 7, "resample is 7"),
        (("prompt", "segments"), [{"text": "no image"}], "prompt has 0 images"),
        (("coordinates", "steps"), 0, "coordinates.steps is 0"),
        (("positions", "kind"), "spiral", "positions.kind"),
        (("positions", "rotary", "scaling"), "yarn", "positions.rotary.scaling is 'yarn'"),
        (("positions", "rotary", "dim"), 7, "positions.rotary.dim is 7"),
        (("positions", "sections"), [2, 3, 3], "positions.sections are of mrope alone"),
        (("positions", "kind"), "mrope", "positions.sections are (), expected three that make 16 pairs"),
        (("state",), [], "state says what 0 layers keep"),
        (("components", 3, "inputs", 1, "name"), "deepstack.0", "gives (), and the decoder takes ('deepstack.0',)"),
        (("components", 3, "inputs", 1, "name"), "deepstack.9", "takes deepstack.9, of layers that it lacks"),
    ],
)
def test_a_record_that_no_builder_writes_is_named(
    tiny_bundle: Path, place: tuple[str | int, ...], value: Any, says: str
) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    inner: Any = manifest
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(BundleCorruptError, match=re.escape(says)):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize(
    ("record", "change", "says"),
    [
        ("smolvlm", {"rule": "largest"}, "image.rule is 'largest', expected most_pixels, nearest_ratio, longest_edge"),
        ("smolvlm", {"longest_edge": None}, "image.longest_edge is None, of the rule longest_edge"),
        ("smolvlm", {"longest_edge": 9000}, "image.longest_edge is 9000"),
        ("internvl", {"longest_edge": 112}, "image.longest_edge is 112, of the rule nearest_ratio"),
        ("internvl", {"overview": "first"}, "image.tags are of grids whose overview comes last"),
        ("smolvlm", {"grids": ((5, 1),)}, "image.tags.before_tile lacks a tile"),
        ("smolvlm", {}, "image.tags leave the vocabulary"),
    ],
)
def test_a_record_of_tiles_that_no_builder_writes_is_named(
    tiny_bundle: Path, record: str, change: dict[str, Any], says: str
) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["image"] = asdict(replace(RECORDS[record], **change))
    with pytest.raises(BundleCorruptError, match=re.escape(says)):
        manifest_from_json(sealed(manifest))


def test_a_schema_of_other_reports_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    prompt = load_bundle(tiny_bundle).manifest.prompt
    (tmp_path / "schema.json").write_text(json.dumps({"properties": {"findings": {"maxItems": 3}}}))
    with pytest.raises(BundleVersionError, match="other reports"):
        load_asked_schema(tmp_path / "schema.json", prompt, CoordinateSpec(100))


def test_a_bundle_from_before_schemas_reports_on_bridges(tiny_bundle: Path, tmp_path: Path) -> None:
    prompt = load_bundle(tiny_bundle).manifest.prompt
    (tmp_path / "schema.json").write_text(json.dumps(answer_schema(BRIDGE, 100), indent=2) + "\n")
    asked = load_asked_schema(tmp_path / "schema.json", prompt, CoordinateSpec(100))
    assert asked == AskedSchema(BRIDGE, BRIDGE.instruction(100))


def test_a_schema_that_cannot_be_inspected_by_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    document = json.loads((tiny_bundle / "schema.json").read_text())
    document["schema"]["classes"] = {"crack": "", "Crack": ""}
    (tmp_path / "schema.json").write_text(json.dumps(document))
    with pytest.raises(BundleCorruptError, match="would take for one"):
        load_asked_schema(tmp_path / "schema.json", load_bundle(tiny_bundle).manifest.prompt, CoordinateSpec(100))


def test_a_bundle_for_another_engine_is_refused_with_the_rebuild_command(bundle_copy: Path) -> None:
    edit(bundle_copy, target="tensorrt")
    with pytest.raises(BundleTargetError, match="--target onnxruntime"):
        load_bundle(bundle_copy, target="onnxruntime")


NATIVE = {
    "kind": "native",
    "pixels": {
        "height": 14,
        "width": 14,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    },
    "merge": 2,
    "least_pixels": 784,
    "most_pixels": 784,
    "grids": [[1, 1]],
    "fill": [0, 0, 0],
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"merge": 0}, "image.merge is 0"),
        ({"least_pixels": 785}, "image.least_pixels is 785, and image.most_pixels 784"),
        ({"grids": []}, "image.grids is empty"),
        ({"grids": [[0, 3]]}, "image.grids has a grid of no tokens"),
        ({"fill": [0, 0]}, "image.fill is no colour"),
        ({}, "the vision encoder sees (1, 3, 56, 56), not image.pixels"),
    ],
)
def test_a_native_image_that_no_builder_writes_is_named(tiny_bundle: Path, change: dict[str, Any], says: str) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["image"] = {**NATIVE, **change}
    with pytest.raises(BundleCorruptError, match=re.escape(says)):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"x"',
        "{}",
        '{"version": "2.0", "model": {}}',
        "[" * 100_000,
        '{"schema_version": true}',
    ],
    ids=lambda text: text[:20],
)
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(BundleCorruptError, match="edge-engines build"):
        manifest_from_json(text)


def test_a_manifest_that_is_no_text_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / "bundle.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleCorruptError, match="UTF-8"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("path", ["/etc/passwd", "../elsewhere", "a/../../b", "", "..\\b"])
def test_a_manifest_cannot_name_files_outside_its_bundle(tiny_bundle: Path, path: str) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["tokenizer"]["path"] = path
    with pytest.raises(BundleCorruptError, match="not inside the bundle"):
        manifest_from_json(sealed(manifest))


def test_a_layer_that_no_decoder_holds_is_noticed(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["model"]["num_layers"] += 1
    with pytest.raises(BundleCorruptError, match="the decoders cover"):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest["image"]["pixels"].update(height=7), "vision encoder sees"),
        (lambda manifest: manifest["components"][0].update(inputs=[]), "no inputs"),
        (lambda manifest: manifest["components"][0]["outputs"][0].update(dtype="float99"), "unknown type"),
    ],
    ids=["another size", "no inputs", "an unknown type"],
)
def test_tensors_that_do_not_fit_are_noticed(
    tiny_bundle: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    change(manifest)
    with pytest.raises(BundleCorruptError, match=says):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("hidden_size", 7, "image_embeddings of component 'connector'"),
        ("num_kv_heads", 1, "past_key.0 of component 'decoder.00'"),
        ("head_dim", 8, "past_key.0 of component 'decoder.00'"),
        ("vocab_size", 600, "the LM head has 512 rows"),
    ],
)
def test_a_model_of_other_sizes_than_its_tensors_is_noticed(
    tiny_bundle: Path, field: str, value: int, says: str
) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["model"][field] = value
    with pytest.raises(BundleCorruptError, match=re.escape(says)):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize("role", ["vision_encoder", "connector", "decoder", "lm_head"])
def test_a_tensor_that_is_missing_is_noticed(tiny_bundle: Path, role: str) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    component = next(component for component in manifest["components"] if component["role"] == role)
    component["outputs"][-1]["name"] = "elsewhere"
    with pytest.raises(BundleCorruptError, match="has no tensor"):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize(
    ("target", "precision"),
    [("onnxruntime", "int3"), ("onnxruntime-amx", "int8"), ("onnxruntime-amx", "nf4"), ("abacus", "int3")],
)
def test_a_precision_that_the_target_does_not_have_is_noticed(tiny_bundle: Path, target: str, precision: str) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["target"] = target
    manifest["components"][-1]["precision"] = precision
    with pytest.raises(BundleCorruptError, match=f"precision '{precision}', and its target has float16"):
        manifest_from_json(sealed(manifest))


@pytest.mark.parametrize("float16_bytes", [-(10**9), -1, 10**9])
def test_more_or_less_float16_than_a_component_can_hold_is_noticed(tiny_bundle: Path, float16_bytes: int) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["components"][-1]["float16_bytes"] = float16_bytes
    with pytest.raises(BundleCorruptError, match=f"float16_bytes {float16_bytes}, of"):
        manifest_from_json(sealed(manifest))


def test_a_vocabulary_that_no_memory_holds_is_noticed_before_it_is_made(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    manifest["model"]["vocab_size"] = 10**9
    with pytest.raises(BundleCorruptError, match="vocab_size"):
        manifest_from_json(sealed(manifest))


JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-2, 9), max_size=3),
    st.just("../x"),
    st.just(10**400),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in [(*path, key), *places(item, (*path, key))]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_manifest_raises_a_bundle_error_or_nothing(
    tiny_bundle: Path, bundle_copy: Path, data: st.DataObject
) -> None:
    document = json.loads((tiny_bundle / "bundle.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(document)))
        target = document
        for key in path:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(JSON_VALUES)
        else:
            del target[last]
    (bundle_copy / "bundle.json").write_text(sealed(document))
    with suppress(BundleError):  # anything else fails
        load_bundle(bundle_copy, verify_hashes=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_manifest_raises_a_bundle_error(tiny_bundle: Path, data: st.DataObject) -> None:
    text = (tiny_bundle / "bundle.json").read_text().rstrip()
    with pytest.raises(BundleError):
        manifest_from_json(text[: data.draw(st.integers(0, len(text) - 1))])
