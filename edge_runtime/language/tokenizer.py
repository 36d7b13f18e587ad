"""Text to token ids and back, and the prompt around the image; knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import PromptSpec
from edge_runtime.errors import BundleCorruptError


@dataclass(frozen=True)
class PromptTokens:
    """Ids around the image; the image's own tokens lie between."""

    before_image: tuple[int, ...]
    after_image: tuple[int, ...]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        BundleCorruptError: the file is no tokenizer.
    """
    try:
        return _take_texts_whole(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises bare Exception
        raise BundleCorruptError(f"{path} is no tokenizer ({error}); copy the bundle again, or rebuild it") from error


def prompt_tokens(tokenizer: Tokenizer, prompt: PromptSpec, image_token_id: int) -> PromptTokens:
    """Ids of the prompt before and after the image, special tokens as the tokenizer adds them.

    The whole prompt is encoded at once and then split: tokenizers treat the start of a text differently from its
    middle, so the halves encoded alone may differ from what the model was trained on. Padding and truncation that the
    tokenizer's file asks for are switched off for good, as transformers does for a single text.

    Raises:
        BundleCorruptError: the prompt does not hold the image token exactly once.
    """
    image_token = tokenizer.id_to_token(image_token_id) or ""
    ids = _take_texts_whole(tokenizer).encode(prompt.before_image + image_token + prompt.after_image).ids
    if ids.count(image_token_id) != 1:
        raise BundleCorruptError(
            f"the prompt holds the image token {image_token!r} {ids.count(image_token_id)} times, expected once; "
            "rebuild the bundle from a checkpoint whose tokenizer and image_token_id agree"
        )
    split = ids.index(image_token_id)
    return PromptTokens(tuple(ids[:split]), tuple(ids[split + 1 :]))


def _take_texts_whole(tokenizer: Tokenizer) -> Tokenizer:
    """Neither pad nor cut: a file keeps how both were done when it was saved, in training say."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
