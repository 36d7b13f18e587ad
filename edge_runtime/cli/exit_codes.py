"""How a command ends: with an exit code, and in one line on stderr where something is wrong; knows no command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable

from edge_runtime.cli.terminal import check_standard_streams, complain
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.signals import interrupted_by_signals

INTERRUPTED = 130  # as a shell reports SIGINT
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: a disk, a quota or a largest file is full


def exit_code(program: str, run: Callable[[], int], options: argparse.Namespace | None = None) -> int:
    """What ``run`` returns, or the code of what it raises, after saying on stderr what that was.

    SIGTERM and SIGHUP are a Ctrl-C.

    ``options`` are filled in by ``run``, which parses the command line: ``verbose`` asks for tracebacks, and
    ``after_interrupt`` is said behind "interrupted". A command without options is a developer's: its faults are raised.
    """
    try:
        check_standard_streams()
        with interrupted_by_signals():
            code = run()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        _abandon_stdout()
        return 1
    except KeyboardInterrupt:
        behind_echo = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
        complain(f"{behind_echo}{program}: interrupted{getattr(options, 'after_interrupt', '')}")
        _flush_or_abandon_stdout()
        return INTERRUPTED
    except Exception as error:
        if options is None and not isinstance(error, EdgeRuntimeError):
            raise
        if getattr(options, "verbose", False):
            traceback.print_exception(error)
        complain(f"{program}: {_explain(error)}")
        return error.exit_code if isinstance(error, EdgeRuntimeError) else 1
    return code


def _flush_or_abandon_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError:  # a terminal that is gone
        _abandon_stdout()


def _explain(error: Exception) -> str:
    if isinstance(error, EdgeRuntimeError):
        return str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:  # any other file's error would be one of ours
        _abandon_stdout()
        return f"cannot write the result to stdout: {error.strerror}; make room where it goes"
    return f"a fault of this program, please report it with the output of -v: {type(error).__name__}: {error}"


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, or Python would fail at it once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
