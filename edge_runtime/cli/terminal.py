"""What reaches a terminal, and over which streams: names and texts without control characters; knows no command."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from contextlib import suppress

from edge_runtime.errors import EdgeRuntimeError

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (of direction, say), surrogate, separators of lines


def printable(text: str, but: str = "") -> str:
    r"""``text`` with control characters, ``but`` some, as escapes: ``\x1b`` would recolour or retitle a terminal."""
    return "".join(character if character in but else _visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode("ascii")


def complain(text: str) -> None:
    """Say a line, or several, on stderr; where nobody can hear it, as the terminal is gone, nothing happens."""
    with suppress(OSError):
        print(printable(text, but="\n"), file=sys.stderr, flush=True)


class PrintableFormatter(logging.Formatter):
    """Log records without control characters: messages quote names of files."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or lines."""
        return printable(super().format(record), but="\n\t")


def check_standard_streams() -> None:
    """Raise where stdout is closed; hold its place and the others', lest a file that is opened later takes it.

    Raises:
        EdgeRuntimeError: results have nowhere to go.
    """
    for number in range(3):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    if sys.stderr is None:  # or what is said there would be printed among the results
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the process ends
    if sys.stdout is None:
        raise EdgeRuntimeError("stdout is closed, and results go there; where nobody is to read them, use >/dev/null")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
