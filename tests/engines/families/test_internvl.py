"""InternVL's settings, image record and refusals."""

from dataclasses import replace

import pytest

from edge_runtime.errors import CheckpointError
from engines.families import read_model
from engines.families.base import ImageOptions
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint
from tests.engines.checkpoints import changed

TINY = SYNTHETIC_CONFIGS["tiny-internvl"]
# As on the hub, its system line left out.
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tiny():
    return open_checkpoint("synthetic:tiny-internvl")


def vision(**settings):
    return {**TINY, "vision_config": {**TINY["vision_config"], **settings}}


@pytest.mark.parametrize(("tiles", "tensors"), [(None, 13), (4, 5), (1, 1)])
def test_a_frame_is_cut_into_as_many_tiles_as_are_allowed(tiny, tiles, tensors):
    image = read_model(tiny, options=ImageOptions(tiles=tiles)).image

    assert (image.max_tensors, image.max_tokens) == (tensors, 4 * tensors + 2)


@pytest.mark.parametrize(
    ("frame", "tiles", "tokens"), [((640, 480), None, 3330), ((640, 480), 4, 258), ((1280, 720), 4, 770)]
)
def test_a_real_model_has_the_tokens_of_transformers(frame, tiles, tokens):
    options = ImageOptions(frames=(frame,), tiles=tiles)

    assert read_model(open_checkpoint("synthetic:internvl3-2b"), options=options).image.max_tokens == tokens


def test_it_is_asked_as_its_template_says(tiny):
    prompt = read_model(replace(tiny, prompt=None, chat_template=TEMPLATE)).prompt

    assert prompt.before_image.startswith("<|im_start|>user\nInspect the structure")
    assert prompt.after_image == "\n<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_ends_with_the_turn_whatever_the_settings_say(tiny):
    named = tiny.tokenizer_json.replace(b'"<unused599>"', b'"<|im_end|>"')

    assert read_model(replace(tiny, tokenizer_json=named)).spec.eos_token_ids == (2, 599)


def test_the_head_is_the_embedding_where_neither_file_nor_settings_say_otherwise(tiny):
    tied = replace(tiny, _parameters={k: p for k, p in tiny._parameters.items() if k != "lm_head.weight"})

    [head] = (part for part in read_model(tied).parts if part.role == "lm_head")

    assert "model.language_model.embed_tokens.weight" in head.parameters


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**TINY, "model_type": "internvl_chat"}, "take the same model in transformers' layout"),
        ({**TINY, "downsample_ratio": 0.3}, "downsample_ratio is 0.3"),
        ({**TINY, "vision_feature_layer": 9}, "vision_feature_layer is 9, of 3 layers"),
        (vision(norm_type="rms_norm"), "norm_type is 'rms_norm'"),
        (vision(use_qk_norm=True), "use_qk_norm is True"),
        (vision(image_size=[56, 112]), r"image_size is \[56, 112\]"),
        (changed(TINY, {"model_type": "qwen3_moe"}), "model_type is 'qwen3_moe'"),
        (changed(TINY, {"rope_scaling": {"type": "yarn", "factor": 2.0}}), "type is 'yarn'"),
    ],
)
def test_a_part_that_no_engine_has_is_refused_while_reading(tiny, config, says):
    with pytest.raises(CheckpointError, match=says):
        read_model(replace(tiny, config=config))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_processor_type": "InternVLVideoProcessor"}, "is for videos"),
        ({"size": {"height": 64, "width": 56}}, r"makes tiles of \(64, 56\)"),
        ({"min_patches": 20}, "ask for as many --tiles at least"),
    ],
)
def test_a_processor_that_makes_other_pixels_is_refused(tiny, settings, says):
    with pytest.raises(CheckpointError, match=says):
        read_model(replace(tiny, image_processor={**tiny.image_processor, **settings}))


def test_a_bias_that_is_missing_is_named(tiny):
    name = "model.language_model.layers.1.self_attn.q_proj.bias"
    less = replace(tiny, _parameters={k: p for k, p in tiny._parameters.items() if k != name})

    with pytest.raises(CheckpointError, match=name):
        read_model(less)
