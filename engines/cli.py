"""The command ``edge-engines``: arguments in, results on stdout, progress on stderr; computes nothing itself."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.budget import check_fits, format_bytes, parse_bytes
from edge_runtime.errors import EdgeRuntimeError, SourceError, VerificationError
from edge_runtime.frames import open_source
from engines.build import build
from engines.plan import DEFAULT_CONTEXT, plan_bundle
from engines.precision import known_recipes, load_recipe
from engines.synthetic import open_checkpoint
from engines.targets import TARGETS
from engines.verify import record_fidelity, verify

_DESCRIPTION = """\
Turn a Hugging Face checkpoint into an engine bundle that edge-runtime loads inside a byte budget.

  edge-engines plan   CHECKPOINT --recipe asymmetric-int4       how many bytes would it take?
  edge-engines build  CHECKPOINT --recipe asymmetric-int4 --out bundle
  edge-engines verify bundle --checkpoint CHECKPOINT            is it still the same model?

CHECKPOINT is a model's directory (config.json, safetensors, tokenizer.json), or synthetic:llava-1.5-7b,
synthetic:llava-1.5-13b, synthetic:tiny-llava: random weights at a real model's shape.
"""
_EXIT_CODES = "exit codes: 0 done, 1 an error, 2 usage, 3 verification failed, 4 does not fit the budget, 130 Ctrl-C"


_MOST_IMAGES = 64  # of --images: each is decoded twice, by the bundle and by transformers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code. Errors raised on purpose become one line on stderr."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except EdgeRuntimeError as error:
        if options.verbose:
            traceback.print_exc()
        print(f"edge-engines: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nedge-engines: interrupted{options.after_interrupt}", file=sys.stderr)
        return 130
    return 0


def _plan(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe)
    plan = plan_bundle(open_checkpoint(options.checkpoint), recipe, options.target, options.context)
    items = {item.name: item.planned_bytes for item in plan.ledger.items}
    text = f"{plan.ledger.table()}\n\non disk: {format_bytes(plan.disk_bytes)}"
    document = {"disk_bytes": plan.disk_bytes, "memory_bytes": plan.ledger.planned_bytes, "ledger": items}
    _print_result(options, text, document)
    if options.budget is not None:
        check_fits(plan.ledger, options.budget)


def _build(options: argparse.Namespace) -> None:
    bundle = build(
        open_checkpoint(options.checkpoint),
        load_recipe(options.recipe),
        options.target,
        options.out,
        budget_bytes=options.budget,
        context=options.context,
        force=options.force,
    )
    manifest = bundle.manifest
    text = f"{bundle.path}: {manifest.name}, {manifest.recipe}, {format_bytes(manifest.size_bytes)}"
    _print_result(options, text, {"bundle": str(bundle.path), "size_bytes": manifest.size_bytes})


def _verify(options: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(options.checkpoint) if options.checkpoint else None
    result = verify(options.bundle, checkpoint, _load_images(options.images) if options.images else None)
    fidelity = result.fidelity.as_json() if result.fidelity else None
    lines = [f"{options.bundle}: {result.files} files unaltered, every engine runs"]
    if fidelity:
        lines += [f"compared with transformers in float32: {result.images} images, {fidelity['positions']} tokens"]
        lines += [f"  {name:<24}{fidelity[name]}" for name in fidelity if name != "positions"]
    else:
        lines += [f"not compared with transformers: {result.not_compared}"]
    document = {"bundle": str(options.bundle), "files": result.files, "fidelity": fidelity}
    reasons = {"not_compared": result.not_compared, "complaints": result.complaints}
    _print_result(options, "\n".join(lines), {**document, **reasons})
    if options.record and result.fidelity:
        record_fidelity(options.bundle, result.fidelity)
    if result.complaints:
        raise VerificationError(
            f"{options.bundle} is not the model it was made from: {'; '.join(result.complaints)}; "
            "rebuild it, or choose a recipe that keeps more"
        )


def _load_images(path: Path) -> list[NDArray[np.uint8]]:
    with open_source(str(path)) as source:
        images = [frame.image for frame in itertools.islice(source, _MOST_IMAGES)]
    if not images:
        raise SourceError(f"{path} holds no image that can be read; give another --images, or leave it out")
    return images


def _print_result(options: argparse.Namespace, text: str, document: Mapping[str, object]) -> None:
    print(json.dumps(document) if options.json else text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-engines",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    plan = _command(commands, "plan", _plan, "print the planned bytes, and write nothing")
    _add_model_arguments(plan)

    make = _command(commands, "build", _build, "write a bundle; an interrupted build goes on where it stopped")
    _add_model_arguments(make)
    make.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the directory to write")
    make.set_defaults(after_interrupt="; finished components are kept: run the same command again to go on")
    make.add_argument("--force", action="store_true", help="replace the bundle at --out")
    check = _command(commands, "verify", _verify, "check a bundle's files and compare it with its checkpoint")
    check.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    check.add_argument("--checkpoint", metavar="CHECKPOINT", help="what it was built from; needs transformers")
    check.add_argument("--record", action="store_true", help="write what was measured into the bundle's manifest")
    check.add_argument("--images", type=Path, metavar="DIR", help="images to compare on [a few rendered scenes]")

    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, after_interrupt="")
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a model's directory, or synthetic:NAME")
    recipes = ", ".join(known_recipes())
    parser.add_argument("--recipe", default="asymmetric-int4", help=f"{recipes}, or a YAML file [%(default)s]")
    parser.add_argument("--target", default="onnxruntime", choices=TARGETS, help="[%(default)s]")
    parser.add_argument("--budget", type=_bytes, metavar="BYTES", help="refuse a plan beyond this, such as 11.4GB")
    parser.add_argument(
        "--context", type=_positive, default=DEFAULT_CONTEXT, metavar="TOKENS", help="length of the cache [%(default)s]"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
