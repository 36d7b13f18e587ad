"""The prompt in tokens, whatever else a tokenizer's file asks for."""

import pytest
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import prompt_around_image
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens
from engines.families.synthetic import open_checkpoint

TINY = open_checkpoint("synthetic:tiny-llava")
IMAGE = TINY.config["image_token_index"]
PROMPT = prompt_around_image("USER: what is wrong here?\n", "\nASSISTANT:")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_is_kept_in_the_file_is_no_part_of_the_prompt(tmp_path, side):
    tokenizer = Tokenizer.from_str(TINY.tokenizer_json.decode())
    tokenizer.enable_padding(direction=side, length=300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    found = prompt_tokens(load_tokenizer(tmp_path / "tokenizer.json"), PROMPT, IMAGE)

    assert found == prompt_tokens(Tokenizer.from_str(TINY.tokenizer_json.decode()), PROMPT, IMAGE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_that_is_kept_in_the_file_cuts_no_prompt(tmp_path, side):
    tokenizer = Tokenizer.from_str(TINY.tokenizer_json.decode())
    tokenizer.enable_truncation(12, direction=side)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    found = prompt_tokens(load_tokenizer(tmp_path / "tokenizer.json"), PROMPT, IMAGE)

    assert found == prompt_tokens(Tokenizer.from_str(TINY.tokenizer_json.decode()), PROMPT, IMAGE)
