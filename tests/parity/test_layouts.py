"""The files and settings that transformers itself chooses of a checkpoint's directory. Needs the ``parity`` extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.checkpoint import load_checkpoint
from engines.families import read_model
from engines.families.synthetic import open_checkpoint, synthetic_checkpoint
from tests.engines.checkpoints import TINY, changed, write_checkpoint
from tests.engines.layouts import CHOSEN_TEMPLATE, LAYOUTS, NORM, TEMPLATES, write_layout, write_templates

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_image_processor_are_those_of_transformers(tmp_path: Path, layout: str) -> None:
    import torch
    from transformers import LlavaForConditionalGeneration
    from transformers.image_processing_base import ImageProcessingMixin

    checkpoint = load_checkpoint(write_layout(layout, tmp_path))

    model = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(tmp_path)
    assert checkpoint.tensor(NORM).tolist() == model.model.language_model.norm.weight.tolist()
    assert checkpoint.image_processor == settings


TIED = {"tie_word_embeddings": True}


@pytest.mark.parametrize("lost", ["none", "lm_head", "embed_tokens"])
@pytest.mark.parametrize("config", [changed(TINY, TIED), changed(TINY, **TIED)])
def test_tied_matrices_are_those_of_transformers(tmp_path: Path, lost: str, config: dict[str, Any]) -> None:
    import torch
    from transformers import LlavaForConditionalGeneration

    source = synthetic_checkpoint("tiny-llava", config)
    write_checkpoint(source, tmp_path, rename=lambda name: None if lost in name else name)
    checkpoint = load_checkpoint(tmp_path)

    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    parts = {part.role: part for part in read_model(checkpoint).parts}
    for kind, matrix in (("embedding", theirs.get_input_embeddings()), ("lm_head", theirs.get_output_embeddings())):
        [name] = [name for name, parameter in parts[kind].parameters.items() if parameter.is_matrix]
        np.testing.assert_array_equal(checkpoint.tensor(name), matrix.weight.detach().numpy())


def test_transformers_misses_a_head_that_is_not_tied_too(tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    tiny = open_checkpoint("synthetic:tiny-llava")
    write_checkpoint(tiny, tmp_path, rename=lambda name: None if "lm_head" in name else name)

    _, told = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True, local_files_only=True)
    assert told["missing_keys"] == {"lm_head.weight"}


@pytest.mark.parametrize("files", TEMPLATES)
def test_the_chat_template_is_that_of_transformers_processor(tmp_path: Path, files: dict[str, Any]) -> None:
    from transformers.processing_utils import ProcessorMixin

    write_templates(write_checkpoint(open_checkpoint("synthetic:tiny-llava"), tmp_path), files)

    theirs, _ = ProcessorMixin.get_processor_dict(tmp_path)
    assert load_checkpoint(tmp_path).chat_template == theirs["chat_template"] == CHOSEN_TEMPLATE
