"""Engines that were written are run before a build says done."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BuildError
from engines.build import build
from engines.families.synthetic import open_checkpoint, synthetic_checkpoint
from engines.quantize.recipe import load_recipe
from engines.targets.trial import try_engines
from tests.engines.checkpoints import TINY, changed


@pytest.fixture
def bundle(tmp_path):
    return build(open_checkpoint("synthetic:tiny-llava"), load_recipe("fp16"), "onnxruntime", tmp_path / "bundle")


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4", "nf4", "uniform-int4"])
def test_engines_of_every_kind_run(tmp_path, recipe):
    checkpoint = open_checkpoint("synthetic:tiny-llava")
    build(checkpoint, load_recipe(recipe), "onnxruntime", tmp_path / "bundle", group_parameters=300_000)

    try_engines(load_bundle(tmp_path / "bundle"))


def test_an_engine_that_does_not_load_is_named(bundle):
    path = bundle.path / "decoder.00.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(BuildError, match=r"decoder\.00 was written and does not run"):
        try_engines(bundle)


def test_an_engine_whose_numbers_are_not_finite_is_named(bundle):
    path = bundle.path / "connector.onnx"
    model = onnx.load(path)
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name.endswith("linear_2.bias")]
    infinite = np.full_like(numpy_helper.to_array(bias), np.inf)
    bias.CopyFrom(numpy_helper.from_array(infinite, bias.name))
    path.write_bytes(model.SerializeToString())

    with pytest.raises(BuildError, match=r"connector was written and gives image_embeddings that is not finite"):
        try_engines(bundle)


def test_a_build_whose_engines_do_not_run_here_is_not_finished(tmp_path, monkeypatch):
    def fail(bundle):
        raise BuildError("decoder.00 was written and does not run")

    monkeypatch.setattr("engines.build.try_engines", fail)

    with pytest.raises(BuildError, match="does not run"):
        build(synthetic_checkpoint("x", changed(TINY)), load_recipe("fp16"), "onnxruntime", tmp_path / "bundle")

    assert not (tmp_path / "bundle").exists()
