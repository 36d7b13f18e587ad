"""Training on photographs: what their labels leave open costs nothing, and a few steps give a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch", reason="torch comes with the parity extra")

from transformers import LlavaForConditionalGeneration  # noqa: E402

from engines.checkpoint import load_checkpoint  # noqa: E402
from engines.families import read_model  # noqa: E402
from engines.reference.photographs import load_photographs  # noqa: E402
from engines.reference.train import main  # noqa: E402
from engines.reference.training.language_model import AnswerLoss, model_config, train_tokenizer  # noqa: E402
from engines.reference.training.photo_samples import sample_of_photo  # noqa: E402
from engines.reference.training.samples import render_sample  # noqa: E402
from engines.reference.training.vision_encoder import GRID, DenseHeads  # noqa: E402
from tests.engines.reference.labelled_photos import write_training_folder  # noqa: E402

REFERENCE = Path(__file__).parents[2] / "engines" / "reference" / "checkpoint"
EVERY_PATCH = torch.arange(GRID * GRID)[None]


def train(monkeypatch, stage, *options):
    monkeypatch.setattr("engines.reference.train.train_tokenizer", partial(train_tokenizer, 40))
    monkeypatch.setattr("sys.argv", ["train", stage, *map(str, options)])
    assert main() == 0


def test_what_a_photograph_leaves_open_costs_nothing(tmp_path):
    photo = load_photographs(write_training_folder(tmp_path))[1]
    sample = sample_of_photo(photo, np.random.default_rng(0))
    torch.manual_seed(0)
    heads, features = DenseHeads(), torch.randn(2, GRID * GRID, 256, requires_grad=True)
    losses = heads.loss(features, [sample, render_sample(1)], EVERY_PATCH.expand(2, -1))
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses["layers"].backward()
    by_layer = heads.read.weight.grad.norm(dim=1)[: heads.sizes[0]]
    assert (by_layer > 0).all()  # the scene teaches every layer
    sample.known[...] = False
    sample.somewhere = None
    features.grad = None
    heads.loss(features, [sample, render_sample(1)], EVERY_PATCH.expand(2, -1))["layers"].backward()
    assert not features.grad[0].any()
    assert features.grad[1].any()


def test_a_crack_somewhere_is_asked_for_where_it_may_be(tmp_path):
    photo = load_photographs(write_training_folder(tmp_path) / "train.txt")[0]
    sample = sample_of_photo(photo, np.random.default_rng(1))
    sample.known[...] = False
    sample.somewhere = np.zeros((GRID, GRID), bool)
    sample.somewhere[:4] = True
    torch.manual_seed(0)
    heads, features = DenseHeads(), torch.randn(2, GRID * GRID, 256, requires_grad=True)
    heads.loss(features, [sample, render_sample(1)], EVERY_PATCH.expand(2, -1))["layers"].backward()
    taught = features.grad[0].abs().sum(-1).view(GRID, GRID) > 0
    assert taught.sum() == 4
    assert not taught[4:].any()


def test_of_an_answer_known_up_to_its_class_only_that_much_is_learned(monkeypatch):
    tokenizer = train_tokenizer(40)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(model_config(tokenizer.get_vocab_size()))
    answer_loss = AnswerLoss(model, tokenizer, train_vision=False, keep=1.0)
    sample = next(sample for sample in map(render_sample, range(40)) if sample.findings)
    named = sample.findings[0].defect_class

    with torch.no_grad():
        whole, opening, unknown = (
            float(answer_loss([replace(sample, opens_with=opens_with)], True)["answer"])
            for opens_with in (None, named, "")
        )

    assert unknown == 0.0
    assert 0 < opening != whole


def test_photographs_are_mixed_with_lifelike_scenes_only(tmp_path, monkeypatch):
    from edge_runtime.errors import UsageError

    monkeypatch.setattr("sys.argv", ["train", "vision", "--photos", "list.txt", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match="give --look lifelike too"):
        main()


def test_a_few_steps_on_photographs_from_the_weights_of_a_checkpoint(tmp_path, monkeypatch):
    photos = write_training_folder(tmp_path / "photos") / "train.txt"
    mixed = ["--look", "lifelike", "--photos", photos, "--batch", 4, "--out", tmp_path / "run", "--start", REFERENCE]
    train(monkeypatch, "vision", *mixed, "--minutes", 1e-6)
    assert torch.load(tmp_path / "run" / "vision.pt", weights_only=True)["step"] == 1  # the first one took longer
    train(monkeypatch, "language", *mixed, "--steps", 2)

    made = LlavaForConditionalGeneration.from_pretrained(tmp_path / "run" / "checkpoint")
    began = LlavaForConditionalGeneration.from_pretrained(REFERENCE)
    assert read_model(load_checkpoint(tmp_path / "run" / "checkpoint")).image.max_tokens == GRID * GRID
    for name, weight in began.state_dict().items():
        assert torch.allclose(made.state_dict()[name].float(), weight.float(), atol=0.01), name
