"""Thirteen billion parameters in a byte budget: build LLaVA-1.5 13B, report on a photograph, and hold both to limits.

    python -m benchmarks.prove_13b --budget 11.4GB
    python -m benchmarks.prove_13b --recipe my.yaml --context 2048 --tokens 32 --keep

The weights are random at the real model's shape, so bytes and seconds are real, and the words are not. Each step is a
process, whose peak resident memory is the kernel's own (``ru_maxrss``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.budget import format_bytes, parse_bytes
from edge_runtime.report import report_from_json

BUILD_LIMIT_BYTES = 6 * 10**9
PLAN_TOLERANCE = 0.05
PHOTOGRAPH = Path("calib_data/samples")

# Reserves a context, reports on an image, and stops the answer after so many of the model's own tokens.
REPORT = """
import itertools, json, sys
from edge_runtime import Inspector, json_from_report, load_bundle, load_image
from edge_runtime.ending import exit_code
from edge_runtime.tokenization import load_tokenizer, prompt_tokens

def report():
    path, image, budget, context, tokens = sys.argv[1:]
    bundle = load_bundle(path)
    model, tokenizer = bundle.manifest.model, load_tokenizer(bundle.file(bundle.manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, bundle.manifest.prompt, model.image_token_id)
    taken = len(prompt.before_image) + model.num_image_tokens + len(prompt.after_image)
    chosen = itertools.count()
    with Inspector.open(path, budget or None, max_report_tokens=int(context) - taken) as inspector:
        found = inspector.inspect(load_image(image), go_on=lambda text: next(chosen) < int(tokens))
        items = {item.name: (item.planned_bytes, item.measured_bytes) for item in inspector.ledger.items}
    print(json.dumps({"report": json_from_report(found), "ledger": items}))
    return 0

sys.exit(exit_code("report", report))
"""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    output: str
    peak_bytes: int
    seconds: float


def main() -> int:
    """Build, report, print; returns 1 where a limit was exceeded, or the exit code of the step that failed."""
    options = _options()
    out = options.out.absolute()
    build_peak_bytes = 0
    if not out.exists():
        built = _run(["-m", "engines.cli", "build", options.checkpoint, "--recipe", options.recipe, "--out", str(out)])
        build_peak_bytes = built.peak_bytes
        print(f"build: {built.seconds:.0f} s, peak {format_bytes(build_peak_bytes)}", flush=True)
        if built.code:
            return built.code
    image = str(options.image or next(PHOTOGRAPH.glob("*.*")))
    reported = _run(["-c", REPORT, str(out), image, options.budget, str(options.context), str(options.tokens)])
    print(f"report: {reported.seconds:.0f} s with loading, peak {format_bytes(reported.peak_bytes)}")
    if not options.keep:
        shutil.rmtree(out)
    if reported.code:
        return reported.code
    document = json.loads(reported.output)
    report = report_from_json(document["report"])  # raises where it is not valid
    timings = report.timings
    for name, (planned_bytes, measured_bytes) in document["ledger"].items():
        measured = "" if measured_bytes is None else format_bytes(measured_bytes)
        print(f"  {name:16}{format_bytes(planned_bytes):>12}{measured:>12}")
    planned_bytes = sum(planned for planned, _ in document["ledger"].values())
    error = planned_bytes / reported.peak_bytes - 1
    print(f"planned {format_bytes(planned_bytes)}: {100 * error:+.1f} % of the peak")
    print(
        f"valid report of {report.tokens} tokens: {timings.vision_ms / 1e3:.1f} s to see, "
        f"{timings.prefill_ms / 1e3:.1f} s to read the prompt, {timings.decode_ms / 1e3:.1f} s to write"
    )
    limits = {
        f"the build's peak is above {format_bytes(BUILD_LIMIT_BYTES)}": build_peak_bytes > BUILD_LIMIT_BYTES,
        f"the plan is not within {100 * PLAN_TOLERANCE:.0f} % of the peak": abs(error) > PLAN_TOLERANCE,
        "the peak is above the budget": bool(options.budget) and reported.peak_bytes > parse_bytes(options.budget),
    }
    for complaint, exceeded in limits.items():
        if exceeded:
            print(f"FAILED: {complaint}")
    return int(any(limits.values()))


def _run(arguments: list[str]) -> Ended:
    started_s = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, output, usage.ru_maxrss * 1024, time.monotonic() - started_s)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="synthetic:llava-1.5-13b")
    parser.add_argument("--recipe", default="asymmetric-int4")
    parser.add_argument("--budget", default="", help="of the report's process (default: what is available)")
    parser.add_argument("--context", type=int, default=2048, help="tokens that are reserved (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="that the model may choose (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="a photograph (default: a sample)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/prove-13b"), help="the bundle, 8 GB; one that is there is used as it is"
    )
    parser.add_argument("--keep", action="store_true", help="keep the bundle")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
