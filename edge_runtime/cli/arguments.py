"""What a number or a file on a command line may be, for both commands; knows no command and no option."""

from __future__ import annotations

import argparse
from pathlib import Path


def byte_budget(text: str) -> int:
    """Bytes, of "11.4GB" or "512MiB"."""
    from edge_runtime.memory.plan import parse_bytes  # here, as it is slow to import, and help needs none

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def file(text: str) -> Path:
    """A file's path, whether it exists or not."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    return path


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
