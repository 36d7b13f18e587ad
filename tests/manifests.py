"""Manifests that a test changed, with the checksum that a builder would have given them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_runtime.bundle.manifest import sha256_of_document


def sealed(manifest: dict[str, Any]) -> str:
    """The text of a manifest that a builder could have written: its checksum is right."""
    return json.dumps({**manifest, "sha256": sha256_of_document(manifest)})


def edit(bundle: Path, **changes: Any) -> None:
    """Give the manifest of a bundle other values."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(sealed({**manifest, **changes}))
