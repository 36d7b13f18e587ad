"""The command ``edge-runtime``: its arguments and its help; ``commands`` does the rest.

Results go to stdout, the log to stderr. Exit codes: 0 done, 1 an error, 2 usage, 4 does not fit the budget, 130 Ctrl-C,
SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from edge_runtime import __version__
from edge_runtime.cli.arguments import byte_budget, file, positive
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.cli.terminal import PrintableFormatter
from edge_runtime.reports.schema import SHIPPED
from edge_runtime.signals import holding_interrupts

_PROGRAM = "edge-runtime"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = argparse.Namespace(verbose=False)
    return exit_code(_PROGRAM, partial(_run, argv, arguments), arguments)


def _run(argv: Sequence[str] | None, arguments: argparse.Namespace) -> int:
    _parser().parse_args(argv, arguments)
    level = logging.INFO if arguments.verbose else logging.WARNING
    heard = logging.StreamHandler()
    heard.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[heard], force=True)
    if not arguments.verbose:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what matters of it comes back, and is said once
    with holding_interrupts():
        from edge_runtime.cli.commands import COMMANDS

    return COMMANDS[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Turn camera frames into inspection reports with an engine bundle, inside a byte budget.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON, one object a line, of what failed too")
    shared.add_argument("-v", "--verbose", action="store_true", help="log more, and show the traceback of an error")
    budget = argparse.ArgumentParser(add_help=False)
    budget.add_argument(
        "--budget",
        type=byte_budget,
        metavar="BYTES",
        help="what the process may hold, as 2GB or 512MiB (default: all available)",
    )
    opening = argparse.ArgumentParser(add_help=False, parents=[budget])
    opening.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of the engines (default: all cores that it may use)"
    )
    opening.add_argument("bundle", metavar="BUNDLE", help="directory that edge-engines build wrote")
    schema = argparse.ArgumentParser(add_help=False)
    schema.add_argument(
        "--schema",
        metavar="NAME|FILE",
        help="what to report on, instead of what the bundle was built for: "
        f"{', '.join(SHIPPED)}, or a YAML file (docs/schemas.md)",
    )
    bits = argparse.ArgumentParser(add_help=False)
    bits.add_argument(
        "--significant-bits",
        type=int,
        choices=range(8, 17),
        metavar="N",
        help="bits that the camera fills of 16-bit pixels, 8 to 16 (default: what the file says or the pixels show)",
    )
    deadline = argparse.ArgumentParser(add_help=False)
    deadline.add_argument("--deadline", type=_not_negative, metavar="SECONDS", help="cut a report that takes longer")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = commands.add_parser(
        "inspect",
        parents=[opening, schema, bits, deadline, shared],
        help="report on images",
        epilog="Exit code 1 if any image could not be inspected; the others are reported nevertheless.",
    )
    inspect.add_argument("images", nargs="+", metavar="IMAGE", help="image file")

    ask = commands.add_parser(
        "ask",
        parents=[opening, bits, deadline, shared],
        help="put a question to an image",
        epilog="The question takes the place of the instruction that asks for reports. A text is printed as it is "
        "written; probabilities are the model's own, and not calibrated.",
    )
    ask.add_argument("images", nargs="+", metavar="IMAGE", help="image file; more than one where the model takes more")
    ask.add_argument("question", metavar="QUESTION", help="in quotes")
    form = ask.add_mutually_exclusive_group()
    form.add_argument(
        "--choices",
        type=_choices,
        metavar="A,B,...",
        help="the answer is one of these; each is printed with its probability among them",
    )
    form.add_argument(
        "--schema", type=file, metavar="FILE", help="the answer is JSON that this file, a JSON schema, allows"
    )
    ask.add_argument("--max-tokens", type=positive, metavar="N", help="cut a longer text (default: 128, of JSON 256)")

    stream = commands.add_parser(
        "stream",
        parents=[opening, schema, bits, deadline, shared],
        help="report on a folder, a video or a camera",
        epilog="Exit code 0 even if some frames failed, which the last line counts; 1 if every one did. A damaged "
        "picture of a folder or a bag fails; in a video or in H.264, FFmpeg covers it up, and OpenCV does not tell.",
    )
    stream.add_argument(
        "source",
        metavar="SOURCE",
        help="folder, video file, ROS bag, camera (0, /dev/video0, rtsp://...) or GStreamer pipeline",
    )
    stream.add_argument(
        "--max-frames", type=positive, metavar="N", help="stop after so many frames, reported or failed"
    )
    stream.add_argument(
        "--skip-below",
        type=_not_negative,
        default=0.0,
        metavar="CHANGE",
        help="skip frames that changed less than this since the last report; 0.35 is over noise (default: skip none)",
    )
    stream.add_argument(
        "--track", action="store_true", help="follow defects from image to image of a folder, as of one flight, too"
    )
    stream.add_argument("--log", type=file, metavar="FILE", help="append the flight log, JSON lines")
    stream.add_argument("--page", type=file, metavar="FILE", help="write the flight report, one HTML page, and its log")

    report = commands.add_parser("report", parents=[shared], help="make the page of a recorded flight")
    report.add_argument("recording", type=file, metavar="RECORDING", help="flight log, or the recorder's MCAP file")
    report.add_argument("--page", type=file, metavar="FILE", help="where it goes (default: beside the recording)")
    report.add_argument(
        "--flight", type=positive, metavar="N", help="which flight of the recording, from 1 (default: the last)"
    )

    bench = commands.add_parser(
        "bench", parents=[opening, schema, bits, deadline, shared], help="measure time and memory"
    )
    bench.add_argument("source", nargs="?", metavar="SOURCE", help="frames, as for stream (default: noise)")
    bench.add_argument("--frames", type=positive, default=20, metavar="N", help="frames to measure (default: 20)")

    diagnose = commands.add_parser("doctor", parents=[budget, shared], help="say what this machine and a bundle can do")
    diagnose.add_argument("bundle", nargs="?", metavar="BUNDLE", help="bundle to check, hashes included")
    return parser


def _choices(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _not_negative(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(value := float(text)) and value >= 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")


_EXAMPLES = """\
examples:
  edge-runtime doctor out/bundle                          is this machine ready, is the bundle whole?
  edge-runtime inspect out/bundle photo.jpg               what is wrong in this picture?
  edge-runtime inspect out/bundle blade.jpg --schema wind-turbine-blade
  edge-runtime ask out/bundle photo.jpg "Is there a person in the picture?" --choices yes,no
  edge-runtime stream out/bundle 0 --page flight.html     inspect what camera 0 sees; Ctrl-C lands
  edge-runtime stream out/bundle rtsp://camera/stream     inspect a camera in the network; it may come and go
  edge-runtime stream out/bundle film.mp4 --json | jq .report.findings
  edge-runtime stream out/bundle bag.mcap#/front/image    inspect what a bag recorded
  edge-runtime report flight.mcap                         make the page of a recorded flight
  edge-runtime bench out/bundle photos --budget 2GB       how fast, in how much memory?

exit codes: 0 done, 1 an error, 2 usage, 4 does not fit the budget, 130 interrupted
"""
