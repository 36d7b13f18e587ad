"""Thirteen billion parameters in a byte budget: build LLaVA-1.5 13B, report on a photograph, and hold both to limits.

    make prove-13b
    python -m benchmarks.prove_13b --checkpoint synthetic:llava-1.5-7b --budget 6GB --keep

The weights are random at the real model's shape, so bytes and seconds are real, and the words are not. Build and report
are processes of their own, each confined to its limit. A proof that was interrupted, by ``kill -9`` too, goes on with
the same command, and counts what it took before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.confined import Ended, run_confined
from benchmarks.target import FASTEST
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.memory.monitor import limits_of
from edge_runtime.memory.plan import format_bytes, parse_bytes
from edge_runtime.memory.telemetry import total_bytes
from edge_runtime.reports.report import report_from_json

BUILD_LIMIT_BYTES = 6 * 10**9
TIME_LIMIT_S = 90 * 60
PLAN_TOLERANCE = 0.05
SAMPLES = Path("calib_data/samples")

# Reserves a context, reports on an image, and stops the answer after so many of the model's own tokens.
REPORT = """
import itertools, json, sys
from edge_runtime import Inspector, json_from_report, load_bundle, load_image
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.language.tokenizer import load_tokenizer, prompt_tokens

def report():
    path, image, budget, context, tokens = sys.argv[1:]
    bundle = load_bundle(path)
    model, tokenizer = bundle.manifest.model, load_tokenizer(bundle.file(bundle.manifest.tokenizer))
    prompt = prompt_tokens(tokenizer, bundle.manifest.prompt, model.image_token_id)
    taken = len(prompt.before_image) + bundle.manifest.image.max_tokens + len(prompt.after_image)
    chosen = itertools.count()
    with Inspector.open(path, budget, max_report_tokens=int(context) - taken) as inspector:
        found = inspector.inspect(load_image(image), should_continue=lambda text: next(chosen) < int(tokens))
        items = {item.name: (item.planned_bytes, item.measured_bytes) for item in inspector.memory_plan.items}
    print(json.dumps({"report": json_from_report(found), "memory_plan": items}))
    return 0

sys.exit(exit_code("report", report))
"""


@dataclass
class Taken:
    """What building took so far, over all attempts."""

    seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, ended: Ended) -> None:
        """Count one more attempt."""
        self.seconds += ended.seconds
        self.peak_bytes = max(self.peak_bytes, ended.peak_bytes)


def main() -> int:
    """Build, report, print; returns 1 where a limit was exceeded, or the exit code of the step that failed."""
    options = _options()
    out, budget_bytes = options.out.absolute(), parse_bytes(options.budget)
    notes = out.with_name(f"{out.name}.json")
    taken = Taken(**json.loads(notes.read_text())) if notes.exists() else Taken()
    if not out.exists():
        build = ["build", options.checkpoint, "--recipe", options.recipe, "--target", options.target, "--out", str(out)]
        if options.frame:
            build += ["--frame", options.frame]
        if options.images:
            build += ["--images", options.images]
        built = _run(["-m", "engines.cli", *build], BUILD_LIMIT_BYTES)
        taken.add(built)
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps(asdict(taken)))
        if built.code:
            return _code_of(built)
    print(f"built in {taken.seconds:.0f} s, peak {format_bytes(taken.peak_bytes)}", flush=True)
    image = options.image or min(SAMPLES.glob("*.jpg"))
    # The runtime leaves a share of the machine to others: with less than that beside its plan, it begins nothing.
    room_bytes = budget_bytes + limits_of(total_bytes()).low_bytes
    asked = [str(out), str(image), options.budget, str(options.context), str(options.tokens)]
    reported = _run(["-c", REPORT, *asked], room_bytes)
    if reported.code:
        return _code_of(reported)
    exceeded = _compare(taken, reported, budget_bytes)
    if not options.keep:
        shutil.rmtree(out)
        notes.unlink()
    return int(exceeded)


def _compare(taken: Taken, reported: Ended, budget_bytes: int) -> bool:
    """Print plan and measurement side by side, and every limit; returns whether one was exceeded."""
    document = json.loads(reported.output)
    report = report_from_json(document["report"])  # raises where it is not valid
    planned_bytes = sum(planned for planned, _ in document["memory_plan"].values())
    rows = [*document["memory_plan"].items(), ("in all", (planned_bytes, reported.peak_bytes))]
    print(f"{'':16}{'planned':>12}{'measured':>12}")
    for name, (planned, measured) in rows:
        print(f"{name:16}{format_bytes(planned):>12}{'' if measured is None else format_bytes(measured):>12}")
    timings = report.timings
    see_s, read_s, write_s = (ms / 1e3 for ms in (timings.vision_ms, timings.prefill_ms, timings.decode_ms))
    print(f"a valid report of {report.tokens} tokens in {reported.seconds:.0f} s with loading")
    print(f"of them {see_s:.1f} s to see, {read_s:.1f} s to read the prompt, {write_s:.1f} s to write")
    error, seconds = planned_bytes / reported.peak_bytes - 1, taken.seconds + reported.seconds
    limits = {
        f"the build takes {format_bytes(taken.peak_bytes)} of {format_bytes(BUILD_LIMIT_BYTES)}": (
            taken.peak_bytes <= BUILD_LIMIT_BYTES
        ),
        f"the report takes {format_bytes(reported.peak_bytes)} of {format_bytes(budget_bytes)}": (
            reported.peak_bytes <= budget_bytes
        ),
        f"the plan is {100 * error:+.1f} % off, of {100 * PLAN_TOLERANCE:.0f} %": abs(error) <= PLAN_TOLERANCE,
        f"the proof takes {seconds / 60:.0f} minutes of {TIME_LIMIT_S / 60:.0f}": seconds <= TIME_LIMIT_S,
    }
    for limit, is_kept in limits.items():
        print(f"{'passed' if is_kept else 'FAILED'}: {limit}")
    how = "in control groups" if reported.is_confined else "sampled, as this user can make no control group"
    print(f"peaks are of all processes of a step, {how}")
    return not all(limits.values())


def _run(arguments: list[str], limit_bytes: int) -> Ended:
    return run_confined([sys.executable, *arguments], limit_bytes)


def _code_of(failed: Ended) -> int:
    """The exit code of a step that failed; a shell's own for one that a signal ended."""
    return failed.code if failed.code > 0 else 128 - failed.code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="synthetic:llava-1.5-13b")
    parser.add_argument("--recipe", default="compact-int4")
    parser.add_argument("--target", default=FASTEST, help="(default: %(default)s)")
    parser.add_argument("--images", default="rendered:2", help="to calibrate on, '' for none (default: %(default)s)")
    parser.add_argument("--budget", default="10.4GB", help="of the report's process (default: %(default)s)")
    parser.add_argument("--frame", metavar="WxH", help="of the camera, for a model that looks at frames in tiles")
    parser.add_argument("--context", type=int, default=2048, help="tokens that are reserved (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="that the model may choose (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="a photograph (default: a rendered sample)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/prove-13b"), help="the bundle, 8 GB; one that is there is used as it is"
    )
    parser.add_argument("--keep", action="store_true", help="keep the bundle")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code("prove_13b", main))
