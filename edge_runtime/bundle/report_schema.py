"""The report schema in a bundle, and the prompt that asks for it; another one is put into both when a bundle is opened.

``schema.json`` holds the schema and the instruction that asks for it in the bundle's prompt, word for word. A
checkpoint that was trained on a prompt of its own has no such instruction, and keeps its prompt whatever the schema.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.bundle.manifest import CoordinateSpec, PromptSpec, Segment, prompt_around_image
from edge_runtime.bundle.opening import Bundle
from edge_runtime.errors import BundleCorruptError, BundleVersionError, SchemaError
from edge_runtime.reports.report import answer_schema
from edge_runtime.reports.schema import BRIDGE, ReportSchema, schema_from_document

SCHEMA_NAME = "schema.json"
_FORMAT = 1  # of the file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedSchema:
    """A schema, and the instruction that asks for it in a prompt; None where the prompt is a checkpoint's own."""

    schema: ReportSchema
    instruction: str | None

    def to_json(self) -> str:
        """The text of ``schema.json``."""
        document = {"format": _FORMAT, "instruction": self.instruction, "schema": self.schema.document()}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def find_instruction(prompt: PromptSpec, instruction: str) -> str | None:
    """The instruction where a prompt holds it, once; else None."""
    count = sum((segment.text or "").count(instruction) for segment in prompt.segments)
    return instruction if count == 1 else None


def with_schema(
    prompt: PromptSpec, asked: AskedSchema, schema: ReportSchema, coordinates: CoordinateSpec
) -> tuple[PromptSpec, AskedSchema]:
    """The prompt asking for ``schema`` instead of what it asks for; a checkpoint's own prompt stays as it is."""
    if schema == asked.schema:
        return prompt, asked
    if asked.instruction is None:
        return prompt, AskedSchema(schema, None)
    before, after = asked.instruction, schema.instruction(coordinates.steps, coordinates.unit)
    segments = [Segment(None if each.text is None else each.text.replace(before, after)) for each in prompt.segments]
    return PromptSpec(tuple(segments)), AskedSchema(schema, after)


def warn_of_own_prompt(whose: str | Path, schema: ReportSchema) -> None:
    """Say in the log that a model is not told what its answers are held to."""
    _log.warning(
        "%s has a prompt of its own, which stays as it is: answers are held to the schema %s, whose classes it need "
        "not name",
        whose,
        schema.name,
    )


def load_asked_schema(path: Path, prompt: PromptSpec, coordinates: CoordinateSpec) -> AskedSchema:
    """Read a bundle's ``schema.json``.

    Raises:
        BundleCorruptError: the file is no JSON, or holds no schema.
        BundleVersionError: it is of another version of this project.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{path} cannot be read as JSON ({error}); copy the bundle again") from error
    if document == answer_schema(BRIDGE, coordinates.steps):  # before bundles had schemas: what bridge is held to
        return AskedSchema(BRIDGE, find_instruction(prompt, BRIDGE.instruction(coordinates.steps, coordinates.unit)))
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise BundleVersionError(
            f"{path} describes other reports than this runtime writes; build the bundle anew with the builder of this "
            "version"
        )
    try:
        schema, said = schema_from_document(document.get("schema")), document.get("instruction")
    except SchemaError as error:
        raise BundleCorruptError(f"{path} holds no report schema: {error}; build the bundle anew") from error
    return AskedSchema(schema, find_instruction(prompt, said) if isinstance(said, str) and said else None)


def question_prompt(prompt: PromptSpec, asked: AskedSchema, question: str) -> PromptSpec:
    """The prompt with a question behind the image in place of the instruction that asks for reports.

    What stands before the image is the same whatever the question. A checkpoint's own prompt stays, with the question
    behind the image.
    """
    before, after = prompt.before_image, prompt.after_image
    if asked.instruction is not None and asked.instruction in after:
        return prompt_around_image(before, after.replace(asked.instruction, question))
    if asked.instruction is not None:
        head, _, tail = before.partition(asked.instruction)
        before = head + tail.lstrip()
    return prompt_around_image(before, f"\n{question}{after}")


def open_with_schema(bundle: Bundle, schema: ReportSchema | None) -> tuple[Bundle, AskedSchema]:
    """The bundle asking for ``schema``, and how it does; None is the bundle's own.

    Raises:
        BundleError: the bundle's own cannot be read.
    """
    manifest = bundle.manifest
    asked = load_asked_schema(bundle.file(manifest.report_schema), manifest.prompt, manifest.coordinates)
    if schema is not None and schema != asked.schema and asked.instruction is None:
        warn_of_own_prompt(bundle.path, schema)
    prompt, asked = with_schema(manifest.prompt, asked, schema or asked.schema, manifest.coordinates)
    return replace(bundle, manifest=replace(manifest, prompt=prompt)), asked
