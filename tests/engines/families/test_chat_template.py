"""Prompts come from the checkpoint's own chat template, worded as transformers words them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.errors import CheckpointError
from engines.checkpoint import load_checkpoint
from engines.families import read_model
from engines.families.synthetic import SYNTHETIC_CONFIGS, open_checkpoint, synthetic_checkpoint
from tests.engines.checkpoints import write_checkpoint

# As on the hub: LLaVA 1.5 and LLaVA 1.6 with Mistral; images come first in both, whatever the order in the message.
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | upper + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' [/INST]' }}"
    "{% endfor %}{% endif %}{% endfor %}"
)
IN_ORDER = (
    "{{ bos_token }}<|user|>{% for content in messages[0]['content'] %}"
    "{% if content['type'] == 'image' %}<image>{% else %}{{ content['text'] }}\n{% endif %}{% endfor %}<|end|>"
)


def prompt_of(template, **settings):
    checkpoint = replace(open_checkpoint("synthetic:tiny-llava"), prompt=None, chat_template=template, **settings)
    return read_model(checkpoint).prompt


def test_llava_1_5_is_asked_as_it_was_trained():
    prompt = prompt_of(LLAVA)

    assert prompt.before_image == "USER: "
    assert prompt.after_image.startswith("\nInspect the structure")
    assert prompt.after_image.endswith("ASSISTANT:")


def test_mistral_is_asked_between_its_own_marks():
    prompt = prompt_of(MISTRAL)

    assert prompt.before_image == "[INST] "
    assert prompt.after_image.endswith(" [/INST]")


def test_what_a_template_puts_before_the_image_is_prefilled_once():
    assert prompt_of(IN_ORDER).before_image.startswith("<|user|>Inspect the structure")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("no image at all", "0 times, expected once"),
        ("<image> <image>", "2 times, expected once"),
        ("{% for", "cannot be rendered"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}<image>", "cannot be rendered"),
    ],
)
def test_a_template_that_makes_no_prompt_is_refused(template, says):
    with pytest.raises(CheckpointError, match=says):
        prompt_of(template)


def test_a_checkpoint_without_a_template_says_how_it_is_asked(caplog):
    prompt_of(None)

    assert "no chat template; the prompt is worded as the family's" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "[INST] <image> [/INST]"),
        ("chat_template.json", '{"chat_template": "[INST] <image> [/INST]"}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "[INST] <image> [/INST]"}]}'),
    ],
)
def test_a_template_is_found_wherever_hugging_face_has_kept_it(tmp_path, name, text):
    path = write_checkpoint(synthetic_checkpoint("tiny-llava", SYNTHETIC_CONFIGS["tiny-llava"]), tmp_path)
    (path / name).write_text(text)

    prompt = read_model(load_checkpoint(path)).prompt

    assert (prompt.before_image, prompt.after_image) == ("[INST] ", " [/INST]")
