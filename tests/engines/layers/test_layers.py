"""A layer is declared once: what a component declares is what its graph takes, and what its folds and groups name."""

import pytest

from engines.evaluation.sensitivity.groups import weight_groups
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.onnx.builder import Graph
from engines.quantize.recipe import FLOAT16

TINY = ("tiny-llava", "tiny-llava-next", "tiny-smolvlm", "tiny-internvl", "tiny-internvl-qwen3")


class Recorder:
    """A checkpoint that remembers which of its tensors were read."""

    def __init__(self, checkpoint):
        self._checkpoint = checkpoint
        self.read = set()

    def __contains__(self, name):
        return name in self._checkpoint

    def tensor(self, name):
        self.read.add(name)
        return self._checkpoint.tensor(name)


@pytest.fixture(params=TINY)
def checkpoint(request):
    return open_checkpoint(f"synthetic:{request.param}")


def test_a_graph_takes_the_tensors_that_its_component_declares(checkpoint, tmp_path):
    for part in read_model(checkpoint).parts:
        if part.emit is not None:
            source = Recorder(checkpoint)
            with Graph(tmp_path / f"{part.name}.onnx") as graph:
                part.emit(graph, OnnxRuntimeLowering(), source, FLOAT16)

            assert source.read == set(part.parameters)


def test_folds_name_matrices_and_tensors_of_their_component(checkpoint):
    for part in read_model(checkpoint).parts:
        for fold in part.folds:
            assert fold.matrix in part.matrices
            assert set(fold.vectors) | ({fold.rows} if fold.rows else set()) <= set(part.parameters)


def test_every_matrix_is_in_one_sensitivity_group(checkpoint):
    model = read_model(checkpoint)
    grouped = [name for group in weight_groups(model, 2) for name in group.tensors]

    matrices = [name for part in model.parts for name, p in part.parameters.items() if p.is_matrix]

    assert sorted(grouped) == sorted(matrices)
