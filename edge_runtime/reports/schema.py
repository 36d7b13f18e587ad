"""The schema of a bundle's answers: the file that the builder writes, and the runtime holds decoding to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_runtime.errors import BundleCorruptError, BundleVersionError
from edge_runtime.reports.report import answer_schema

SCHEMA_NAME = "schema.json"


def schema_to_json(coordinate_steps: int) -> str:
    """The text of ``schema.json``: the JSON schema of an answer whose corners have so many steps."""
    return json.dumps(answer_schema(coordinate_steps), indent=2) + "\n"


def load_schema(path: Path, coordinate_steps: int) -> dict[str, Any]:
    """Read the answers' schema.

    Raises:
        BundleCorruptError: the file is no JSON.
        BundleVersionError: it is not the schema whose answers this runtime reads: a prompt asks for one, and is frozen
            into the bundle.
    """
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{path} cannot be read as JSON ({error}); copy the bundle again") from error
    expected = answer_schema(coordinate_steps)
    if schema != expected:
        raise BundleVersionError(
            f"{path} describes other reports than this runtime writes; build the bundle anew with the builder of this "
            "version"
        )
    return expected
