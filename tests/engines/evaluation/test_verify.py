"""Verifying: a bundle is whole and runs; with a checkpoint and transformers, it is also the same model."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.bundle.manifest import PRECISIONS
from edge_runtime.bundle.opening import load_bundle, sha256_of_file
from edge_runtime.errors import (
    BackendError,
    BundleCorruptError,
    BundleNotFoundError,
    CheckpointError,
    VerificationError,
)
from engines.build import build
from engines.cli import main
from engines.evaluation.fidelity import (
    TOLERANCES,
    Fidelity,
    Trace,
    compare_traces,
    outside_tolerance,
)
from engines.evaluation.verify import record_fidelity, verify
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe
from engines.targets import TARGETS
from tests.engines.checkpoints import write_checkpoint
from tests.manifests import sealed

FRAMES = [np.full((40, 60, 3), shade, np.uint8) for shade in (20, 200)]
EXACT = Fidelity(1.0, logits_relative_error=0.0, logits_median_error=0.0, identical_tokens=1.0, positions=3)


@pytest.fixture
def tiny():
    return open_checkpoint("synthetic:tiny-llava")


@pytest.fixture
def bundle(tiny, tmp_path):
    return build(tiny, load_recipe("asymmetric-int4"), "onnxruntime", tmp_path / "bundle")


def rehash(bundle, path):
    """Make the manifest agree with a file that was altered."""
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    for component in manifest["components"]:
        for entry in component["files"]:
            if entry["path"] == path:
                entry["sha256"] = sha256_of_file(bundle.path / path)
                entry["size_bytes"] = (bundle.path / path).stat().st_size
    (bundle.path / "bundle.json").write_text(sealed(manifest))


def trace(logits, features=((1.0, 0.0),)):
    logits = np.array(logits, np.float32)
    features = np.array(features, np.float32)
    return Trace(features, features, logits, tuple(int(i) for i in logits.argmax(axis=1)))


def test_a_sound_bundle_runs_and_says_why_it_was_not_compared(bundle):
    result = verify(bundle.path, None, FRAMES)

    assert (result.files, result.images) == (11, 2)
    assert result.fidelity is None
    assert result.complaints == ()
    assert result.not_compared == "no --checkpoint was given"


def test_without_images_rendered_scenes_are_looked_at(bundle):
    assert verify(bundle.path, None).images == 4


def test_a_synthetic_checkpoint_is_not_compared(bundle, tiny):
    assert "synthetic" in str(verify(bundle.path, tiny, FRAMES).not_compared)


@pytest.mark.parametrize("name", ["vision_encoder.onnx", "decoder.00.onnx.data", "embedding.f16", "tokenizer.json"])
def test_an_altered_file_is_named(bundle, name):
    file = bundle.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(BundleCorruptError, match=name):
        verify(bundle.path, None, FRAMES)


def test_the_command_ends_with_3_where_a_file_was_altered(bundle, capsys):
    (bundle.path / "tokenizer.json").write_bytes(bytes((bundle.path / "tokenizer.json").stat().st_size))

    assert main(["verify", str(bundle.path)]) == 3
    assert "tokenizer.json was altered" in capsys.readouterr().err


def test_a_missing_file_is_named(bundle):
    (bundle.path / "lm_head.onnx.data").unlink()

    with pytest.raises(BundleNotFoundError, match=r"lm_head\.onnx\.data"):
        verify(bundle.path, None, FRAMES)


def test_an_engine_that_does_not_load_is_named(bundle):
    (bundle.path / "connector.onnx").write_bytes(b"no graph")
    rehash(bundle, "connector.onnx")

    with pytest.raises(BackendError, match=r"connector\.onnx"):
        verify(bundle.path, None, FRAMES)


def test_numbers_that_are_not_finite_fail(bundle):
    weights = np.fromfile(bundle.path / "connector.onnx.data", np.float16)
    weights.fill(np.inf)
    weights.tofile(bundle.path / "connector.onnx.data")
    rehash(bundle, "connector.onnx.data")

    with pytest.raises(VerificationError, match="image embeddings, logits are not finite"):
        verify(bundle.path, None, FRAMES)


def test_a_bundle_of_another_checkpoint_is_refused(bundle):
    with pytest.raises(CheckpointError, match="built from another checkpoint"):
        verify(bundle.path, open_checkpoint("synthetic:llava-1.5-7b"), FRAMES)


def test_what_was_measured_can_be_recorded_in_the_manifest(bundle):
    record_fidelity(bundle.path, EXACT)

    assert load_bundle(bundle.path, verify_hashes=True).manifest.fidelity == EXACT.as_json()
    assert "bundle.json.new" not in os.listdir(bundle.path)


def test_equal_traces_compare_as_equal():
    same = trace([[1.0, 2.0], [3.0, 0.0]])

    assert compare_traces([same], [same]) == Fidelity(1.0, 0.0, 0.0, 1.0, 2)


def test_the_worst_row_of_all_images_counts():
    expected = trace([[0.0, 4.0], [0.0, 10.0]], features=[[1, 0], [1, 0]])
    found = trace([[1.0, 4.0], [0.0, 10.0]], features=[[1, 0], [1, 1]])

    fidelity = compare_traces([expected, found], [expected, expected])

    assert fidelity.logits_relative_error == 0.25
    assert fidelity.logits_median_error == 0.0
    assert fidelity.features_cosine == pytest.approx(0.5**0.5)


def test_tokens_count_as_identical_where_the_same_one_would_be_chosen():
    expected = trace([[0.0, 4.0], [0.0, 4.0], [4.0, 0.0], [4.0, 0.0]])
    found = trace([[5.0, 4.0], [0.0, 1.0], [4.0, 0.0], [4.0, 0.0]])

    assert compare_traces([found], [expected]).identical_tokens == 0.75


def complaints_of(bundle, fidelity, arithmetic="float32", vision="float16", decoder="float16"):
    precisions = dict.fromkeys(("embedding", "lm_head", "decoder"), decoder)
    components = (replace(c, precision=precisions.get(c.role, vision)) for c in bundle.manifest.components)
    return outside_tolerance(fidelity, replace(bundle.manifest, components=tuple(components)), arithmetic)


@pytest.mark.parametrize(
    ("vision", "decoder", "fidelity", "complaints"),
    [
        ("float16", "float16", EXACT, 0),
        ("float16", "float16", Fidelity(0.99, 0.01, 0.01, 0.99, 100), 4),
        ("float16", "float16", Fidelity(float("nan"), float("nan"), float("nan"), 0.0, 100), 4),
        ("float16", "int4", Fidelity(1.0, 0.4, 0.1, 0.9, 100), 0),
        ("float16", "int4", Fidelity(0.99, 0.4, 0.1, 0.9, 100), 1),
        ("int4", "int4", Fidelity(0.99, 0.4, 0.1, 0.9, 100), 0),
        ("int4", "int4", Fidelity(0.5, 0.9, 0.5, 0.0, 100), 2),
        ("nf4", "nf4", Fidelity(0.98, 0.4, 0.1, 0.9, 100), 0),
        ("float16", "int8", Fidelity(1.0, 0.9, 0.2, 0.8, 100), 0),
        ("float16", "int8", Fidelity(0.9, float("nan"), float("nan"), 0.8, 100), 3),
    ],
)
def test_tolerances_are_as_wide_as_the_precisions_on_the_way(bundle, vision, decoder, fidelity, complaints):
    assert len(complaints_of(bundle, fidelity, vision=vision, decoder=decoder)) == complaints


@pytest.mark.parametrize(("target", "complaints"), [("onnxruntime", 3), ("tensorrt", 0), ("tensorrt-rtx", 0)])
def test_a_target_that_computes_in_float16_is_given_what_that_costs(bundle, target, complaints):
    as_measured = Fidelity(0.99999, 2e-3, 2e-3, 0.99, 100)

    assert len(complaints_of(bundle, as_measured, TARGETS[target].arithmetic)) == complaints


def test_float16_arithmetic_is_no_excuse_for_another_model(bundle):
    as_with_four_bits = Fidelity(0.998, 0.4, 0.04, 0.9, 100)

    assert len(complaints_of(bundle, as_with_four_bits, "float16")) == 4


def test_every_precision_has_its_tolerance():
    assert set(TOLERANCES) == set(PRECISIONS)


def test_nothing_is_recorded_where_nothing_was_compared(bundle, capsys):
    assert main(["verify", str(bundle.path), "--record"]) == 3
    assert "nothing to record" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_compared_for_want_of_a_library_is_an_error(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    checkpoint, bundle = write_checkpoint(tiny, tmp_path / "checkpoint"), tmp_path / "bundle"
    assert main(["build", str(checkpoint), "--out", str(bundle)]) == 0

    assert main(["verify", str(bundle), "--checkpoint", str(checkpoint)]) == 1
    said = capsys.readouterr()
    assert "files unaltered, every engine runs" in said.out
    assert "pip install '.[parity]'" in said.err
    assert main(["verify", str(bundle)]) == 0


def test_a_synthetic_checkpoint_to_compare_with_is_an_error_of_the_command(bundle, capsys):
    assert main(["verify", str(bundle.path), "--checkpoint", "synthetic:tiny-llava"]) == 1
    assert "leave --checkpoint out" in capsys.readouterr().err
