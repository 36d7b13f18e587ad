"""Opening checkpoints: every form that transformers writes, and every way in which a file can be wrong."""

import json
import shutil
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CheckpointError
from engines.checkpoint import load_checkpoint
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from tests.engines.checkpoints import write_checkpoint, write_safetensors, write_safetensors_header
from tests.engines.layouts import CHOSEN, CHOSEN_TEMPLATE, LAYOUTS, TEMPLATES, write_layout, write_templates

NORM = "language_model.model.norm.weight"


@pytest.fixture(scope="module")
def tiny():
    return open_checkpoint("synthetic:tiny-llava")


@pytest.fixture
def directory(tiny, tmp_path):
    return write_checkpoint(tiny, tmp_path / "checkpoint")


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_come_back_as_they_were_written(tiny, tmp_path, shards):
    checkpoint = load_checkpoint(write_checkpoint(tiny, tmp_path, shards=shards))

    assert set(checkpoint) == set(tiny)
    for name in checkpoint:
        assert checkpoint.shape(name) == tiny.shape(name)
        np.testing.assert_array_equal(checkpoint.tensor(name), tiny.tensor(name))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_type_is_read(tiny, tmp_path, dtype):
    checkpoint = load_checkpoint(write_checkpoint(tiny, tmp_path, convert=lambda tensor: tensor.astype(dtype)))

    assert checkpoint.tensor(NORM).dtype == dtype
    np.testing.assert_array_equal(checkpoint.tensor(NORM), tiny.tensor(NORM).astype(dtype))


def test_tensors_are_mapped_and_not_copied(directory):
    assert isinstance(load_checkpoint(directory).tensor(NORM), np.memmap)


def test_the_hash_follows_the_contents_and_not_the_place(directory, tmp_path):
    moved = shutil.copytree(directory, tmp_path / "elsewhere")
    before = load_checkpoint(directory).sha256()

    assert load_checkpoint(moved).sha256() == before

    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert load_checkpoint(moved).sha256() != before


@pytest.mark.parametrize(("place", "name"), [("llava-7b", "llava-7b"), ("drone/checkpoint", "drone")])
def test_a_model_is_named_after_its_directory(tiny, tmp_path, place, name):
    assert load_checkpoint(write_checkpoint(tiny, tmp_path / place)).name == name


def test_the_image_processor_may_lie_in_the_processors_own_file(directory):
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": settings}))

    assert load_checkpoint(directory).image_processor == settings


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_and_settings_are_chosen_as_transformers_chooses(tmp_path, layout):  # tests/parity asks transformers
    checkpoint = load_checkpoint(write_layout(layout, tmp_path))

    assert set(checkpoint.tensor(NORM).tolist()) == {CHOSEN}
    assert checkpoint.image_processor["image_mean"] == [CHOSEN] * 3


@pytest.mark.parametrize("files", TEMPLATES)
def test_the_chat_template_is_chosen_as_transformers_chooses(directory, files):  # tests/parity asks transformers
    write_templates(directory, files)

    assert load_checkpoint(directory).chat_template == CHOSEN_TEMPLATE


@pytest.mark.parametrize("named", ["../model.safetensors", "pytorch_model.bin", 3, ""])
def test_settings_may_only_name_safetensors_of_their_directory(directory, named):
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "transformers_weights": named}))

    with pytest.raises(CheckpointError, match="transformers_weights"):
        load_checkpoint(directory)


def test_weights_that_settings_name_must_be_there(directory):
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "transformers_weights": "mine.safetensors"}))

    with pytest.raises(CheckpointError, match=r"mine\.safetensors"):
        load_checkpoint(directory)


def test_the_advice_for_other_weights_keeps_the_head(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="AutoModelForImageTextToText"):  # AutoModel saves none
        load_checkpoint(directory)


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_refused_with_how_to_merge_it(directory, alone):
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    if alone:
        (directory / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"adapter.*'some/base'.*merge_and_unload\(\)\.save_pretrained") as error:
        load_checkpoint(directory)

    assert ("move the adapter's files away" in str(error.value)) is not alone


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("where", ["", "text_config"])
def test_weights_that_settings_call_quantized_are_refused(directory, key, where):
    settings = json.loads((directory / "config.json").read_text())
    (settings[where] if where else settings)[key] = {"quant_method": "awq"}
    (directory / "config.json").write_text(json.dumps(settings))

    with pytest.raises(CheckpointError, match=r"quantized.*'awq'"):
        load_checkpoint(directory)


def test_settings_that_say_null_of_quantization_say_nothing(directory):
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "quantization_config": None}))

    assert NORM in load_checkpoint(directory)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_integers_of_a_weights_shape_are_no_weights(tiny, tmp_path, dtype):
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    tensors = {name: tiny.tensor(name) for name in tiny}
    write_safetensors(
        write_checkpoint(tiny, tmp_path) / "model.safetensors", {**tensors, name: tensors[name].astype(dtype)}
    )

    with pytest.raises(CheckpointError, match=rf"{name} .* is stored as {np.dtype(dtype)}"):
        read_model(load_checkpoint(tmp_path))


def test_integers_that_no_component_takes_do_not_matter(tiny, tmp_path):
    tensors = {name: tiny.tensor(name) for name in tiny}
    buffer = {"vision_tower.vision_model.embeddings.position_ids": np.arange(17, dtype=np.int64)}
    write_safetensors(write_checkpoint(tiny, tmp_path) / "model.safetensors", {**tensors, **buffer})

    assert read_model(load_checkpoint(tmp_path)).parts


def test_a_type_of_numbers_that_is_not_known_is_named(directory):
    entry = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
    write_safetensors_header(directory / "model.safetensors", {"weight": entry}, bytes(4))

    with pytest.raises(CheckpointError, match="weight is stored as F8_E4M3"):
        load_checkpoint(directory)


def test_a_checkpoint_may_bring_its_own_prompt(directory):
    prompt = {"before_image": "Look: ", "after_image": "\nSay:"}
    (directory / "inspection_prompt.json").write_text(json.dumps(prompt))

    assert load_checkpoint(directory).prompt == prompt


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "holds a list"),
        ("config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("config.json", b"[" * 100_000, "cannot be read as JSON"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("preprocessor_config.json", None, "says nothing of image preprocessing"),
        ("inspection_prompt.json", b'{"before_image": 3}', "must hold the strings"),
        ("model.safetensors", None, "holds neither model.safetensors"),
        ("model.safetensors", b"", "no whole safetensors file"),
        ("model.safetensors", b"\xff" * 8, "no whole safetensors file"),
        ("model.safetensors", (40).to_bytes(8, "little") + b"{}", "no whole safetensors file"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]", "no JSON object"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"{x", "not a readable safetensors file"),
    ],
)
def test_a_missing_or_damaged_file_is_named(directory, file, content, complaint):
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content)

    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(directory)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory_is_said_to_be_one(directory):
    with pytest.raises(CheckpointError, match=r"config\.json is a file; expected .* directory"):
        load_checkpoint(directory / "config.json")


@pytest.mark.parametrize("lost_bytes", [1, 1000, 100_000])
def test_truncated_weights_are_refused_before_any_is_read(directory, lost_bytes):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-lost_bytes])

    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]},
        {"dtype": "F16", "shape": [-4], "data_offsets": [8, 0]},
        {"dtype": "F16", "shape": [2.0, 2], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [True, 4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [10**18, 10**18 + 8]},
        {"dtype": "F16", "shape": [1 << 62, 4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": 4, "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0]},
        {"dtype": "F16", "shape": [4], "data_offsets": "08"},
        {"dtype": "Q3", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": ["F16"], "shape": [4], "data_offsets": [0, 8]},
        {"shape": [4], "data_offsets": [0, 8]},
        [],
        None,
    ],
)
def test_a_header_that_lies_is_refused(directory, entry):
    write_safetensors_header(directory / "model.safetensors", {"weight": entry}, bytes(8))

    with pytest.raises(CheckpointError):
        load_checkpoint(directory)


json_values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=4), lambda v: st.lists(v, max_size=4)
)
entries = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values | st.just("F16"))


@given(header=st.dictionaries(st.text(max_size=4), entries | json_values, max_size=3))
def test_no_header_causes_anything_but_a_checkpoint_error(tmp_path_factory, tiny, header):
    directory = tmp_path_factory.mktemp("fuzz")
    write_checkpoint(tiny, directory, rename=lambda name: None)
    write_safetensors_header(directory / "model.safetensors", header, bytes(8))

    with suppress(CheckpointError):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "..", "a\\b", 3])
def test_an_index_may_only_name_files_of_its_directory(directory, name):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))

    with pytest.raises(CheckpointError, match="files of its own directory"):
        load_checkpoint(directory)


def test_a_shard_that_lacks_a_promised_tensor_is_named(directory):
    (directory / "model.safetensors").unlink()
    write_safetensors(directory / "part.safetensors", {"a": np.zeros(3, np.float16)})
    index = {"weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"part\.safetensors lacks b"):
        load_checkpoint(directory)


def test_asking_for_a_tensor_that_is_not_there_names_it(directory):
    with pytest.raises(CheckpointError, match="no tensor 'w'"):
        load_checkpoint(directory).tensor("w")
