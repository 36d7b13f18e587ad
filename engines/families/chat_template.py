"""The prompt as a checkpoint's own chat template words it, made offline: the runtime knows no templates."""

from __future__ import annotations

import json
import logging
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import PromptSpec, prompt_around_image
from edge_runtime.errors import CheckpointError
from engines.checkpoint import Checkpoint

_log = logging.getLogger(__name__)


def inspection_prompt(
    checkpoint: Checkpoint, instruction: str, image_token_id: int, otherwise: PromptSpec
) -> PromptSpec:
    """The prompt that asks for a report: the checkpoint's own, or the ``instruction`` in its chat template.

    Without either it is ``otherwise``, which is said in the log.

    Raises:
        CheckpointError: the template cannot be rendered, or does not put the image's token into the prompt once.
    """
    if checkpoint.prompt:
        return prompt_around_image(checkpoint.prompt["before_image"], checkpoint.prompt["after_image"])
    if checkpoint.chat_template is None:
        _log.warning(
            "%s has no chat template; the prompt is worded as the family's: %r ...",
            checkpoint.name,
            otherwise.after_image,
        )
        return otherwise
    tokenizer = tokenizer_of(checkpoint)
    image_token = tokenizer.id_to_token(image_token_id)
    text = _render(checkpoint, instruction)
    if image_token is None or text.count(image_token) != 1:
        raise CheckpointError(
            f"the chat template of {checkpoint.name} puts the image token {image_token!r} into the prompt "
            f"{text.count(image_token) if image_token else 0} times, expected once; is it of another model? It says: "
            f"{text[:200]!r}"
        )
    bos = _content(checkpoint.tokenizer_config.get("bos_token"))
    if bos and text.startswith(bos) and tokenizer.encode("").ids[:1] == [tokenizer.token_to_id(bos)]:
        text = text.removeprefix(bos)  # the tokenizer begins every text with it, as transformers knows too
    before, _, after = text.partition(image_token)
    return prompt_around_image(before, after)


def _render(checkpoint: Checkpoint, instruction: str) -> str:
    """A user's turn of instruction and image, in the environment in which transformers renders templates."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise
    content = [{"type": "text", "text": instruction}, {"type": "image"}]  # LLaVA was trained on both orders
    special = {
        name: _content(checkpoint.tokenizer_config.get(name)) for name in ("bos_token", "eos_token", "pad_token")
    }
    try:
        template = environment.from_string(checkpoint.chat_template or "")
        return template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True, **special)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the chat template of {checkpoint.name} cannot be rendered ({error}); copy it again, or give the prompt "
            "in inspection_prompt.json, as before_image and after_image"
        ) from error


def _raise(message: str) -> None:
    raise TemplateError(message)


def _content(token: Any) -> str:
    """The text of a special token, which settings hold as such or with its properties."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer.

    Raises:
        CheckpointError: its file is none.
    """
    try:
        return Tokenizer.from_str(checkpoint.tokenizer_json.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"the tokenizer.json of {checkpoint.name} is none: {error}; copy it again") from error
