"""Checkpoints that exist nowhere: the same numbers everywhere, at real models' shapes."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.errors import CheckpointError
from engines.families import read_model
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint

MATRIX = "language_model.model.layers.0.mlp.down_proj.weight"


def test_the_same_name_gives_the_same_numbers_on_every_machine():
    values = open_checkpoint("synthetic:tiny-llava").tensor(MATRIX)

    assert values.shape == (128, 192)
    assert values[0, :4].tolist() == [-0.08929443359375, 0.12030029296875, 0.058197021484375, 0.11602783203125]


def test_tensors_of_other_names_have_other_numbers():
    checkpoint = open_checkpoint("synthetic:tiny-llava")

    assert not np.array_equal(checkpoint.tensor(MATRIX), checkpoint.tensor(MATRIX.replace("0", "1")))


def test_weights_keep_the_size_of_hidden_states():
    checkpoint = open_checkpoint("synthetic:tiny-llava")

    assert checkpoint.tensor(MATRIX).astype(np.float32).std() == pytest.approx(192**-0.5, rel=0.02)
    assert checkpoint.tensor("language_model.model.norm.weight").mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("name", "billions"), [("llava-1.5-7b", 7.06), ("llava-1.5-13b", 13.35)])
def test_large_models_have_the_size_of_the_real_ones(name, billions):
    checkpoint = open_checkpoint(f"synthetic:{name}")

    assert sum(np.prod(checkpoint.shape(tensor)) for tensor in checkpoint) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", SYNTHETIC_CONFIGS)
def test_the_tokenizer_spells_any_text_in_bytes_and_knows_the_special_tokens(name):
    checkpoint = open_checkpoint(f"synthetic:{name}")
    spec = read_model(checkpoint).spec
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)

    encoded = tokenizer.encode("Riß ⚠\n<image>.")

    assert tokenizer.get_vocab_size() == spec.vocab_size
    assert encoded.ids[0] == spec.bos_token_id
    assert encoded.ids.count(spec.image_token_id) == 1
    assert tokenizer.decode(encoded.ids) == "Riß ⚠\n."


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(CheckpointError, match=r"synthetic:llava-1\.5-7b"):
        open_checkpoint("synthetic:gpt")
