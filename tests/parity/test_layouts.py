"""The files and settings that transformers itself chooses of a checkpoint's directory. Needs the ``parity`` extra."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.checkpoint import load_checkpoint
from tests.engines.layouts import LAYOUTS, NORM, write_layout

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
