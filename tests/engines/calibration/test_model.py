"""A checkpoint's own runner: its prompt and words reach the decoder, and what overflows float16 in it is named."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from edge_runtime.errors import CalibrationError
from engines.calibration.images import open_images
from engines.calibration.model import find_model_overflow, open_model_runner
from tests.engines.calibration.graphs import MODEL, TINY, emit_parts

IMAGES = "rendered:2"


@dataclass(frozen=True)
class Louder:
    """The tiny model with tensors scaled, by the ends of their names."""

    factors: dict[str, float]

    def tensor(self, name):
        factor = next((factor for end, factor in self.factors.items() if name.endswith(end)), 1.0)
        return (TINY.tensor(name).astype(np.float32) * factor).astype(np.float16)

    def __contains__(self, name):
        return name in TINY

    @property
    def tokenizer_json(self):
        return TINY.tokenizer_json


def test_the_decoder_reads_the_models_prompt_and_answers(tmp_path):
    parts = emit_parts(tmp_path)
    with open_model_runner(TINY, MODEL, open_images(IMAGES)) as runner:
        for name in ("vision_encoder", "connector"):
            runner.skip(parts[name])
        samples = list(runner.samples(parts["decoder.00"]))

    [table] = [name for part in MODEL.parts if part.role == "embedding" for name in part.parameters]
    bos = TINY.tensor(table)[MODEL.spec.bos_token_id]
    rows = [sample["hidden_states"][0] for sample in samples]
    assert MODEL.image.max_tokens + 48 < len(rows[0]) <= MODEL.spec.max_positions
    np.testing.assert_array_equal([row[0] for row in rows], [bos, bos])
    assert (rows[0][-48:] != rows[1][-48:]).any()


def test_where_positions_end_answers_do(tmp_path):
    parts = emit_parts(tmp_path)

    def tokens(model):
        with open_model_runner(TINY, model, open_images(IMAGES)) as runner:
            for name in ("vision_encoder", "connector"):
                runner.skip(parts[name])
            return runner.shapes(parts["decoder.00"])["hidden_states"][1]

    most = tokens(MODEL)

    assert tokens(replace(MODEL, spec=replace(MODEL.spec, max_positions=most - 8))) == most - 8


def test_nothing_overflows_in_a_quiet_model():
    found = find_model_overflow(TINY, MODEL, open_images(IMAGES))

    assert list(found) == ["vision_encoder", "connector", "decoder.00", "decoder.01", "lm_head"]
    assert not any(overflow.nodes for overflow in found.values())


@pytest.mark.parametrize(
    ("component", "factors"),
    [
        ("vision_encoder", {"layers.0.mlp.fc1.weight": 60000.0, "layers.0.mlp.fc2.weight": 1 / 60000}),
        ("decoder.00", {"layers.1.mlp.up_proj.weight": 60000.0, "layers.1.mlp.down_proj.weight": 1 / 60000}),
    ],
)
def test_a_layer_that_overflows_is_named(component, factors):
    found = find_model_overflow(Louder(factors), MODEL, open_images(IMAGES))

    assert {name for name, overflow in found.items() if overflow.nodes} == {component}
    layer = next(iter(factors)).split(".mlp")[0]
    assert all(node.startswith(f"{layer}/") for node in found[component].nodes)
    assert max(found[component].tensors.values()) > 65504


def test_what_overflows_between_components_is_refused():
    with pytest.raises(CalibrationError, match="passes between components as float16"):
        find_model_overflow(Louder({"layers.1.mlp.down_proj.weight": 60000.0}), MODEL, open_images(IMAGES))
