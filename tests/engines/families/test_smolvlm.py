"""SmolVLM's settings, image record and refusals."""

from dataclasses import replace

import pytest

from edge_runtime.errors import CheckpointError
from engines.checkpoint import load_checkpoint
from engines.families import read_model
from engines.families.base import ImageOptions
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint, synthetic_checkpoint
from tests.engines.checkpoints import changed, write_checkpoint

TINY = SYNTHETIC_CONFIGS["tiny-smolvlm"]
# As on the hub.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tiny():
    return open_checkpoint("synthetic:tiny-smolvlm")


def test_a_frame_is_one_tile_unless_more_are_asked_for(tiny):
    one, many = read_model(tiny).image, read_model(tiny, options=ImageOptions(tiles=12)).image

    assert (one.max_tensors, one.max_tokens) == (1, 2 * 2 + 3)
    assert many.max_tensors == 13


def test_room_is_planned_for_the_frames_that_are_named(tiny):
    frames = ((160, 90),)

    image = read_model(tiny, options=ImageOptions(tiles=16, frames=frames)).image

    assert image.frames == frames
    assert (
        image.max_tokens == 13 * (4 + 2) + 2 + 2 + 1
    )  # tags, two ends of lines, an empty line, and what stands behind


@pytest.mark.parametrize(("name", "tokens"), [("smolvlm2-2.2b", 81), ("smolvlm2-500m", 64), ("smolvlm2-256m", 64)])
def test_a_real_model_has_the_tokens_of_its_card(name, tokens):
    assert read_model(open_checkpoint(f"synthetic:{name}")).image.max_tokens == tokens + 3


def test_the_first_version_is_the_same_code():
    config = {**TINY, "model_type": "idefics3", "vision_config": {**TINY["vision_config"], "model_type": "idefics3"}}

    checkpoint = replace(open_checkpoint("synthetic:tiny-smolvlm"), config=config)

    assert read_model(checkpoint).family == "smolvlm"


def test_it_is_asked_as_its_template_says(tiny):
    prompt = read_model(replace(tiny, prompt=None, chat_template=TEMPLATE)).prompt

    assert prompt.before_image.startswith("<|im_start|>User: Inspect the structure")
    assert prompt.after_image == "<end_of_utterance>\nAssistant:"


def test_an_answer_ends_with_the_turn_whatever_the_settings_say(tiny):
    named = tiny.tokenizer_json.replace(b'"<unused599>"', b'"<end_of_utterance>"')

    assert read_model(replace(tiny, tokenizer_json=named)).spec.eos_token_ids == (2, 599)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**TINY, "scale_factor": 3}, "scale_factor is 3, which does not divide 4 patches"),
        (changed(TINY, {"model_type": "gemma"}), "model_type is 'gemma'; supported: llama"),
        (changed(TINY, {"use_sliding_window": True}), "use_sliding_window is true"),
        ({**TINY, "vision_config": {**TINY["vision_config"], "model_type": "clip"}}, "supported: smolvlm_vision"),
        ({**TINY, "vision_config": {**TINY["vision_config"], "hidden_act": "relu"}}, "hidden_act is 'relu'"),
    ],
)
def test_a_part_that_no_engine_has_is_refused_while_reading(tiny, config, says):
    with pytest.raises(CheckpointError, match=says):
        read_model(replace(tiny, config=config))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"video_processor_type": "SmolVLMVideoProcessor"}, "is for videos"),
        ({"max_image_size": {"longest_edge": 364}}, "makes tiles of 364 pixels"),
        ({"size": {"longest_edge": 9000}}, "resizes to 9000 pixels"),
        ({"do_rescale": False}, "do_rescale false"),
    ],
)
def test_a_processor_that_makes_other_pixels_is_refused(tiny, settings, says):
    with pytest.raises(CheckpointError, match=says):
        read_model(replace(tiny, image_processor={**tiny.image_processor, **settings}))


def test_a_tokenizer_without_tags_is_refused(tiny):
    other = open_checkpoint("synthetic:tiny-internvl").tokenizer_json

    with pytest.raises(CheckpointError, match="does not know <fake_token_around_image>, <global-img>"):
        read_model(replace(tiny, tokenizer_json=other))


def test_a_way_of_fitting_is_refused(tiny):
    with pytest.raises(CheckpointError, match="leave --fit out"):
        read_model(tiny, options=ImageOptions(fit="crop"))


def test_a_directory_reads_as_the_checkpoint_that_was_written(tmp_path):
    checkpoint = load_checkpoint(write_checkpoint(synthetic_checkpoint("tiny-smolvlm", TINY), tmp_path / "tiny"))

    assert {part.name for part in read_model(checkpoint).parts} >= {"vision_encoder", "connector", "lm_head"}


def test_other_tensors_are_refused_by_the_class_that_writes_them(tmp_path):
    source = synthetic_checkpoint("tiny-smolvlm", TINY)
    write_checkpoint(source, tmp_path, rename=lambda name: name.replace("modality_projection", "other"))

    with pytest.raises(CheckpointError, match="SmolVLMForConditionalGeneration"):
        read_model(load_checkpoint(tmp_path))
