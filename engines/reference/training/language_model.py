"""Stage two of training: connector and decoder learn to write the answer that the features support.

The whole model is a ``LlavaForConditionalGeneration``; the loss is on the answer's tokens only. Coordinates are tokens
0 to 100 with a soft target, because a box one hundredth off is nearly right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPImageProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from edge_runtime.reports.report import answer_from_findings
from engines.reference.training.samples import GRID, IMAGE_PX, Sample, render_sample
from engines.reference.training.vision_encoder import (
    MEAN,
    STD,
    WIDTH,
    at_patches,
    patch_features,
    pixels,
    vision_config,
)

BEFORE_IMAGE = "USER: Report every defect as JSON.\n"
AFTER_IMAGE = "\nASSISTANT: "
_SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
PAD, BOS, EOS, IMAGE = range(4)
_SPREAD = 1.5  # hundredths: standard deviation of a coordinate's soft target
_WORDS = Regex(r" ?[A-Za-z]+|[0-9]+|[^A-Za-z0-9 ]+| +")


def train_tokenizer(scenes: int = 4000) -> Tokenizer:
    """A byte-level BPE over answers; every word, every number to 100 and every run of JSON signs is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    answers = [answer_from_findings(render_sample(seed).findings) for seed in range(scenes)]
    numbers = [str(n) for n in range(101)] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=2,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(answers + numbers + [BEFORE_IMAGE, AFTER_IMAGE] * 100, trainer)
    return tokenizer


def model_config(vocab_size: int) -> LlavaConfig:
    """The reference inspector: ``vision_encoder``'s ViT, a two-layer connector, a LLaMA of 4 layers 256 wide."""
    text = LlamaConfig(
        vocab_size=-(-vocab_size // 64) * 64,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


class AnswerLoss:
    """Cross-entropy of the answers, given the images."""

    def __init__(
        self, model: LlavaForConditionalGeneration, tokenizer: Tokenizer, train_vision: bool, keep: float
    ) -> None:
        self.model, self.tokenizer, self.train_vision, self.keep = model, tokenizer, train_vision, keep
        self.before = torch.tensor([BOS, *tokenizer.encode(BEFORE_IMAGE).ids])
        self.after = tokenizer.encode(AFTER_IMAGE).ids
        self.soft_targets = _coordinate_targets(tokenizer, model.config.text_config.vocab_size)
        self.features_of = torch.compile(patch_features)
        self.hidden_of = torch.compile(model.model.language_model.forward)

    def __call__(self, samples: Sequence[Sample], settled: bool) -> dict[str, Tensor]:
        """Mean loss a token. Until the rate falls, the decoder is shown a random share of the patches, in place."""
        core = self.model.model
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.set_grad_enabled(self.train_vision):
                features = self.features_of(core.vision_tower, pixels(samples))
            image = core.multi_modal_projector(features)  # (B, 256, D)
            tails = [self.after + self._answer(sample) for sample in samples]
            longest = -(-max(map(len, tails)) // 32) * 32  # few lengths, so that little is compiled anew
            ids = torch.tensor([tail + [PAD] * (longest - len(tail)) for tail in tails])
            embed = core.language_model.embed_tokens
            batch, patches = image.shape[:2]
            kept = torch.rand(batch, patches).argsort(1)[:, : patches if settled else int(patches * self.keep)]
            kept = kept.sort(1).values
            parts = [embed(self.before).expand(batch, -1, -1), at_patches(image, kept), embed(ids)]
            first = len(self.before)
            before, after = torch.arange(first), torch.arange(first + patches, first + patches + longest)
            positions = torch.cat([before.expand(batch, -1), first + kept, after.expand(batch, -1)], 1)
            # Without the mask of ones, the model takes a gap between positions for the start of another text.
            hidden = self.hidden_of(
                inputs_embeds=torch.cat(parts, 1),
                position_ids=positions,
                attention_mask=torch.ones_like(positions),
                use_cache=False,
            ).last_hidden_state
            logits = self.model.lm_head(hidden[:, first + kept.shape[1] + len(self.after) - 1 : -1])
        target = ids[:, len(self.after) :]
        return self._loss(logits.float(), target)

    def _answer(self, sample: Sample) -> list[int]:
        """The tokens to learn: of an answer whose first class is all that is known, those up to that class."""
        if sample.opens_with is None:
            return [*self.tokenizer.encode(answer_from_findings(sample.findings)).ids, EOS]
        opening = '{"findings":[{"class":"' + sample.opens_with if sample.opens_with else ""
        return list(self.tokenizer.encode(opening).ids)

    def _loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        real = target != PAD
        log_p, target = logits[real].log_softmax(-1), target[real]
        hard = -log_p.gather(1, target[:, None])[:, 0]
        number = self.soft_targets.is_number[target]
        rows = self.soft_targets.rows[self.soft_targets.row_of[target[number]]]
        soft = -(log_p[number] * rows).sum(-1)
        loss = torch.where(number, 0.0, hard).sum() + soft.sum()
        return {"answer": loss / max(len(target), 1)}


class _coordinate_targets:
    """For the tokens "0" to "100": the distribution over tokens that a coordinate's target is."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        ids = torch.tensor([tokenizer.token_to_id(str(n)) for n in range(101)])
        distance = torch.arange(101)[:, None] - torch.arange(101)[None, :]
        weights = torch.exp(-(distance**2) / (2 * _SPREAD**2))
        self.rows = torch.zeros(101, vocab_size)
        self.rows[:, ids] = weights / weights.sum(1, keepdim=True)
        self.is_number = torch.zeros(vocab_size, dtype=torch.bool)
        self.is_number[ids] = True
        self.row_of = torch.zeros(vocab_size, dtype=torch.long)
        self.row_of[ids] = torch.arange(101)


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a Hugging Face checkpoint in float16, with the image processor, tokenizer and prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    half = LlavaForConditionalGeneration(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    CLIPImageProcessor(
        do_resize=True, size=size, resample=3, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    _write(folder / "inspection_prompt.json", {"before_image": BEFORE_IMAGE, "after_image": AFTER_IMAGE})


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
