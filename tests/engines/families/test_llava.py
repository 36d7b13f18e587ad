"""What the LLaVA family understands of a checkpoint, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import CheckpointError
from edge_runtime.reports.report import DEFECT_CLASSES
from engines.checkpoint import load_checkpoint
from engines.families import read_model
from engines.families.base import ImageOptions
from engines.families.synthetic import open_checkpoint, synthetic_checkpoint
from tests.engines.checkpoints import TINY, changed, newer_name, write_checkpoint, write_safetensors


@pytest.fixture(scope="module")
def tiny():
    return open_checkpoint("synthetic:tiny-llava")


def with_vision(**settings):
    return changed(TINY, vision_config={**TINY["vision_config"], **settings})


def test_components_follow_the_way_of_a_frame(tiny):
    parts = read_model(tiny).parts

    assert [part.name for part in parts] == ["vision_encoder", "connector", "embedding", "decoder.00", "lm_head"]


def test_decoder_layers_are_grouped_up_to_a_number_of_weights(tiny):
    parts = read_model(tiny, group_parameters=300_000).parts

    groups = [part.layers for part in parts if part.role == "decoder"]

    assert groups == [(0, 2), (2, 4)]


def test_a_group_holds_at_least_one_layer(tiny):
    groups = [part.layers for part in read_model(tiny, group_parameters=1).parts if part.role == "decoder"]

    assert groups == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_sizes_left_out_of_the_settings_are_those_of_the_architecture():
    model = read_model(open_checkpoint("synthetic:llava-1.5-7b"))
    spec = model.spec

    assert (spec.hidden_size, spec.num_layers, spec.num_kv_heads, spec.head_dim) == (4096, 32, 32, 128)
    assert (model.image.max_tokens, spec.vocab_size, spec.bos_token_id, spec.eos_token_ids) == (576, 32064, 1, (2,))


def test_layers_after_the_chosen_one_are_not_taken(tiny):
    names = [name for part in read_model(tiny).parts for name in part.parameters]

    assert any("encoder.layers.1." in name for name in names)
    assert not any("encoder.layers.2." in name or "post_layernorm" in name for name in names)


@pytest.mark.parametrize(
    ("strategy", "image", "rows"), [("default", 56, 16), ("full", 56, 17), ("default", 69, 16), ("full", 70, 26)]
)
def test_image_tokens_are_the_patches_and_where_kept_the_class_token(strategy, image, rows):
    config = {**with_vision(image_size=image), "vision_feature_select_strategy": strategy}

    assert read_model(synthetic_checkpoint("x", config)).image.max_tokens == rows


TIED = {"tie_word_embeddings": True}
MATRICES = {"embed_tokens": "model.language_model.embed_tokens.weight", "lm_head": "lm_head.weight"}


def without_matrices(tiny, directory, lost, config):
    """The tiny checkpoint as newer versions name it, without some of the embedding and the head."""

    def rename(name):
        new = "lm_head.weight" if "lm_head" in name else newer_name(name)
        return None if any(matrix in name for matrix in lost) else new

    return load_checkpoint(write_checkpoint(replace(tiny, config=config), directory, rename=rename))


@pytest.mark.parametrize("lost", [[], ["lm_head"], ["embed_tokens"]])
@pytest.mark.parametrize("config", [changed(TINY, TIED), changed(TINY, **TIED)])
def test_head_and_embedding_that_are_tied_take_the_matrix_that_is_there(tiny, tmp_path, lost, config):
    parts = {part.role: part for part in read_model(without_matrices(tiny, tmp_path, lost, config)).parts}

    there = [name for name in MATRICES if name not in lost]
    assert set(parts["embedding"].parameters) == {MATRICES[there[0]]}
    assert set(parts["lm_head"].parameters) == {"model.language_model.norm.weight", MATRICES[there[-1]]}


@pytest.mark.parametrize("lost", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("config", [TINY, changed(TINY, tie_word_embeddings=False)])
def test_a_head_that_is_not_tied_must_be_there(tiny, tmp_path, lost, config):
    with pytest.raises(CheckpointError, match=rf"holds no {lost}\.weight.*tie_word_embeddings"):
        read_model(without_matrices(tiny, tmp_path, [lost], config))


def test_biases_of_the_decoder_are_taken_where_there_are_any(tiny, tmp_path):
    names = [f"language_model.model.layers.{i}.self_attn.{part}_proj.bias" for i in range(4) for part in "qkv"]
    biases = {name: np.zeros(128 if "q_proj" in name else 64, np.float16) for name in names}
    write_checkpoint(tiny, tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {**{name: tiny.tensor(name) for name in tiny}, **biases})

    decoder = read_model(load_checkpoint(tmp_path)).parts[3]

    assert set(biases) <= set(decoder.parameters)
    assert not set(biases) & set(read_model(tiny).parts[3].parameters)


def test_the_end_of_an_answer_is_what_generation_says(tiny):
    assert read_model(replace(tiny, generation_config={"eos_token_id": [2, 7]})).spec.eos_token_ids == (2, 7)


def test_the_default_prompt_names_every_defect_class_before_the_image(tiny):
    prompt = read_model(tiny).prompt

    assert all(name in prompt.before_image for name in DEFECT_CLASSES)
    assert prompt.before_image.startswith("USER: ")
    assert prompt.after_image == "\nASSISTANT:"


def test_a_checkpoints_own_prompt_is_used(tiny):
    prompt = read_model(replace(tiny, prompt={"before_image": "a", "after_image": "b"})).prompt

    assert (prompt.before_image, prompt.after_image) == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "fit", "crop"),
    [
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}, "letterbox", 64),
        ({"size": 60, "crop_size": 56}, "letterbox", 60),
        ({"size": {"height": 56, "width": 56}, "do_center_crop": False}, "squeeze", 56),
        ({"size": {"height": 56, "width": 56}, "crop_size": {"height": 56, "width": 56}}, "squeeze", 56),
        ({}, "letterbox", 56),
    ],
)
def test_the_image_processors_resizing_is_understood(tiny, settings, fit, crop):
    checkpoint = replace(tiny, image_processor={"image_mean": [0, 0, 0], **settings})
    image = read_model(checkpoint).image

    assert (image.fit, image.shortest_edge) == (fit, None)
    assert (image.pixels.height, image.pixels.width) == (56, 56)
    assert image.pixels.mean == (0.0, 0.0, 0.0)
    cropped = read_model(checkpoint, options=ImageOptions(fit="crop")).image
    assert (cropped.fit, cropped.shortest_edge) == ("crop", crop)


def test_frames_are_padded_with_the_colour_that_llava_was_trained_beside(tiny):
    assert read_model(tiny).image.fill == (122, 116, 104)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_resize": False},
        {"do_pad": True},
        {"resample": 0},
        {"crop_size": {"height": 224, "width": 224}},
        {"crop_size": {"height": 56, "width": 40}},
        {"size": {"height": 60, "width": 60}},
        {"size": {"longest_edge": 60}, "do_center_crop": False},
        {"size": "large"},
        {"image_mean": [0.5]},
        {"image_std": "grey"},
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_std": [0.5, float("nan"), 0.5]},
        {"image_mean": [0.5, float("inf"), 0.5]},
        {"rescale_factor": -0.5},
        {"rescale_factor": 0},
    ],
)
def test_preprocessing_that_the_runtime_cannot_do_is_refused(tiny, settings):
    processor = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, **settings}

    with pytest.raises(CheckpointError, match="image processor"):
        read_model(replace(tiny, image_processor=processor))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({**TINY, "model_type": "blip-2"}, "architecture 'blip-2'; supported: llava"),
        ({**TINY, "model_type": ["llava"]}, "supported: llava"),
        ({}, "architecture None"),
        (with_vision(model_type="siglip_vision_model"), "supported: clip_vision_model"),
        (with_vision(hidden_act="relu"), "supported: quick_gelu or gelu"),
        (with_vision(hidden_size="big"), "hidden_size is 'big'"),
        (with_vision(num_hidden_layers=True), "num_hidden_layers is True"),
        (changed(TINY, {"model_type": "qwen2"}), "model_type is 'qwen2'; supported: llama"),
        (changed(TINY, {"hidden_act": "gelu"}), "supported: silu"),
        (changed(TINY, {"rope_scaling": {"type": "yarn", "factor": 2.0}}), "supported: default or linear or llama3"),
        (changed(TINY, {"rope_parameters": {"rope_type": "llama3"}}), "factor is missing"),
        (changed(TINY, {"head_dim": 20}), "heads are 20 wide"),
        (changed(TINY, {"head_dim": 24}), "multiples of 16"),
        (changed(TINY, {"num_attention_heads": 3, "head_dim": 32}), "no multiple of num_key_value_heads 2"),
        ({**TINY, "vision_feature_layer": []}, "expected a number, or a list"),
        ({**TINY, "vision_feature_layer": [-1, 9]}, "of 3 layers"),
        (changed(TINY, {"rms_norm_eps": -1}), "rms_norm_eps is -1"),
        (changed(TINY, {"eos_token_id": "end"}), "eos_token_id is 'end'"),
        ({**TINY, "text_config": [1]}, "supported: an object"),
        ({**TINY, "vision_feature_layer": [-2, -5]}, "vision_feature_layer"),
        ({**TINY, "vision_feature_layer": -9}, "of 3 layers"),
        ({**TINY, "vision_feature_layer": 0}, "of 3 layers"),
        ({**TINY, "vision_feature_select_strategy": "mean"}, "supported: default or full"),
    ],
)
def test_a_model_that_is_not_supported_is_named_with_what_is(tiny, config, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        read_model(replace(tiny, config=config))


def test_settings_that_contradict_the_tensors_are_refused(tiny):
    with pytest.raises(CheckpointError, match=r"layer_norm1|mlp\.fc1.*don't belong together"):
        read_model(replace(tiny, config=with_vision(intermediate_size=100)))


def test_a_checkpoint_with_a_tensor_missing_is_refused(tiny, tmp_path):
    lost = "language_model.model.layers.2.mlp.up_proj.weight"
    directory = write_checkpoint(tiny, tmp_path, rename=lambda name: None if name == lost else name)

    with pytest.raises(CheckpointError, match=lost):
        read_model(load_checkpoint(directory))


def test_a_checkpoint_without_a_vision_tower_is_refused(tiny, tmp_path):
    directory = write_checkpoint(tiny, tmp_path, rename=lambda name: None if "vision" in name else name)

    with pytest.raises(CheckpointError, match="lacks a vision tower"):
        read_model(load_checkpoint(directory))
