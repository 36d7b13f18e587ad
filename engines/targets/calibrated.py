"""Graphs that calibration changes, and where they stay as they were emitted; knows no way of changing them."""

from __future__ import annotations

from pathlib import Path

import onnx

from edge_runtime.bundle.manifest import FileEntry
from engines.onnx.builder import HashedFile


def as_emitted(path: Path) -> Path:
    """The graph at ``path`` as it was before calibration changed it, through which images pass."""
    kept = path.with_name(f"{path.stem}.emitted.onnx")
    return kept if kept.exists() else path


def keep_emitted(path: Path) -> Path:
    """Move the graph at ``path`` to where :func:`as_emitted` finds it, beside its weights."""
    return path.rename(path.with_name(f"{path.stem}.emitted.onnx"))


def save_graph(model: onnx.ModelProto, path: Path) -> FileEntry:
    """Write a graph whose weights are in place already."""
    file = HashedFile(path)
    try:
        file.write(model.SerializeToString(deterministic=True))
    finally:
        entry = file.close()
    return entry
