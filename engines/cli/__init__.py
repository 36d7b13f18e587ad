"""The command ``edge-engines``: its arguments and its help; ``commands`` does the rest.

Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from edge_runtime import __version__
from edge_runtime.cli.arguments import byte_budget, positive
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import MissingDependencyError
from edge_runtime.reports.schema import SHIPPED
from edge_runtime.signals import holding_interrupts

_PROGRAM = "edge-engines"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = argparse.Namespace(verbose=False, after_interrupt="")
    return exit_code(_PROGRAM, partial(_run, argv, arguments), arguments)


def _run(argv: Sequence[str] | None, arguments: argparse.Namespace) -> int:
    _parser().parse_args(argv, arguments)
    if arguments.threads:
        _use_cores(arguments.threads)
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", force=True)
    with holding_interrupts():
        try:
            from engines.cli.commands import COMMANDS
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{error.name} is not installed; pip install '.[build]' in a checkout"
            ) from error

    COMMANDS[arguments.command](arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Turn a Hugging Face checkpoint into an engine bundle that fits a byte budget.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--threads", type=positive, metavar="N", help="use so many cores at most (default: all that this process may)"
    )
    shared.add_argument("--json", action="store_true", help="print the result as JSON")
    shared.add_argument("-v", "--verbose", action="store_true", help="log more, and show the traceback of an error")
    fitting = argparse.ArgumentParser(add_help=False)
    fitting.add_argument(
        "--fit",
        choices=("letterbox", "squeeze", "crop"),
        help="how a frame is brought to the vision encoder's shape: padded, distorted, or cut (default: padded where "
        "the checkpoint's processor would cut it, else as that says)",
    )
    fitting.add_argument(
        "--frame",
        dest="frames",
        action="append",
        type=_frame_size,
        metavar="WxH",
        help="a camera's frames, as 1920x1080, of a model that looks at them in tiles (default: any frame), or in "
        "their own shape (Qwen; default: 1280x720 and 640x480): room is planned for the tokens that they take; may be "
        "given several times",
    )
    fitting.add_argument(
        "--tiles",
        type=positive,
        metavar="N",
        help="tiles that a frame is cut into at most, beside an overview, by SmolVLM (default: 1, the whole frame) and "
        "InternVL (default: as the checkpoint says, mostly 12): more show smaller defects, and each takes its time",
    )
    reporting = argparse.ArgumentParser(add_help=False)
    reporting.add_argument(
        "--schema",
        metavar="NAME|FILE",
        help=f"what reports say: {', '.join(SHIPPED)}, or a YAML file, docs/schemas.md (default: bridge)",
    )
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("checkpoint", metavar="CHECKPOINT", help="a model's directory, or synthetic:NAME")
    model.add_argument(
        "--recipe", default="asymmetric-int4", help="a name, a YAML file, or auto (default: %(default)s)"
    )
    model.add_argument(
        "--measurements",
        type=Path,
        metavar="FILE",
        help="what edge-engines sensitivity wrote: the recipe auto chooses by it, within --budget",
    )
    model.add_argument(
        "--budget", type=byte_budget, metavar="BYTES", help="refuse a plan beyond this, as 11.4GB or 512MiB"
    )
    model.add_argument(
        "--context",
        type=positive,
        metavar="TOKENS",
        help="prompt, image and answer that the plan has room for (default: 2048, more where an "
        "image takes more, and the model's most at most)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    plan = commands.add_parser(
        "plan", parents=[model, reporting, fitting, shared], help="say what would fit and how fast; write nothing"
    )
    plan.add_argument("--target", help=f"{_TARGET_HELP} (default: the device's, or else onnxruntime)")
    plan.add_argument("--device", metavar="DEVICE", help="a machine to plan for, as orin-nx-16gb, or its YAML file")

    build = commands.add_parser(
        "build", parents=[model, reporting, fitting, shared], help="write a bundle, or go on where it stopped"
    )
    build.add_argument("--target", help=f"{_TARGET_HELP} (default: onnxruntime)")
    build.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the directory to write")
    build.add_argument(
        "--compute-capability",
        dest="compute_capabilities",
        type=_capabilities,
        metavar="X.Y,...",
        help="GPUs that tensorrt-rtx builds for (default: 8.6,8.9,12.0: GeForce RTX 30, 40 and 50)",
    )
    build.add_argument("--images", metavar="DIR", help=_CALIBRATION_HELP)
    build.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="DIR",
        help="INT8 ranges: taken from here where they are, written here where not, perhaps on a faster machine",
    )
    build.add_argument(
        "--int8-route",
        choices=("implicit", "explicit"),
        help="how TensorRT makes INT8: implicit, by its calibrator (the default up to version 10), or explicit, by "
        "nodes in the graph (the only one from 11 on)",
    )
    build.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="times of kernels that TensorRT measured (default: ~/.cache/...)",
    )
    build.add_argument(
        "--family",
        choices=("cnn",),
        help="cnn: CHECKPOINT is any classifier's ONNX file, and --out the file to write it to in INT8, with BatchNorm "
        "folded, a scale a channel, and its head in float32 (default: what the checkpoint's settings say)",
    )
    build.add_argument(
        "--per-tensor", action="store_true", help="of a cnn: one scale a weight, to see what it costs; not for use"
    )
    build.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="of a cnn: what its input is of RGB pixels: imagenet (0 to 1, then by ImageNet's mean and deviation), "
        "unit (0 to 1), raw (0 to 255, also where the graph normalizes by itself), or a preprocessor_config.json "
        "(default: the one beside CHECKPOINT; without one, it has to be said)",
    )
    build.add_argument(
        "--force", action="store_true", help="replace the bundle at --out, and what another build left unfinished there"
    )
    build.set_defaults(after_interrupt="; finished components are kept: run the same command again to go on")

    calibrate = commands.add_parser(
        "calibrate",
        parents=[reporting, fitting, shared],
        help="find INT8 ranges here, for a build by TensorRT on another machine",
    )
    calibrate.add_argument("checkpoint", metavar="CHECKPOINT", help="a model's directory, or synthetic:NAME")
    calibrate.add_argument(
        "--recipe", default="asymmetric-int8", help="its name, or a YAML file (default: %(default)s)"
    )
    calibrate.add_argument("--out", type=Path, required=True, metavar="DIR", help="what --calibration-cache will be")
    calibrate.add_argument("--images", default="rendered:512", metavar="DIR", help=_CALIBRATION_HELP)
    calibrate.add_argument(
        "--tensorrt",
        default="10.3.0",
        metavar="VERSION",
        help="the other machine's (default: %(default)s, JetPack 6.2's)",
    )
    calibrate.add_argument(
        "--int8-route", choices=("implicit", "explicit"), help="the one of the build, if it says one"
    )
    calibrate.set_defaults(after_interrupt="; what was found is kept: run the same command again to go on")

    verify = commands.add_parser("verify", parents=[shared], help="check a bundle, and compare it with its checkpoint")
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    verify.add_argument("--checkpoint", metavar="CHECKPOINT", help="what it was built from; needs transformers")
    verify.add_argument("--images", type=Path, metavar="DIR", help="images to compare on (default: rendered scenes)")
    verify.add_argument("--record", action="store_true", help="write what was measured into the bundle's manifest")

    _add_sensitivity(commands, shared)
    return parser


def _use_cores(number: int) -> None:
    """Keep this process, with every thread that it has and will have, to so many of its cores."""
    cores = sorted(os.sched_getaffinity(0))[:number]
    for task in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task), cores)


def _add_sensitivity(commands: Any, shared: argparse.ArgumentParser) -> None:
    sensitivity = commands.add_parser(
        "sensitivity", parents=[shared], help="measure what each part of a model loses at fewer bits, by every method"
    )
    sensitivity.add_argument("checkpoint", metavar="CHECKPOINT", help="a model's directory, or synthetic:NAME")
    sensitivity.add_argument(
        "--out",
        type=Path,
        default=Path("sensitivity.jsonl"),
        metavar="FILE",
        help="results, one a line; those that are there are not measured again (default: %(default)s)",
    )
    sensitivity.add_argument(
        "--images", default="rendered:128", metavar="DIR", help="images to calibrate on (default: %(default)s)"
    )
    sensitivity.add_argument(
        "--quantizations",
        metavar="NAME,...",
        help="methods and bits, as rtn4,gptq3,awq4/32,nf4 (default: a grid of them)",
    )
    for name, default, what in (
        ("scenes", 40, "rendered scenes, hard to read, that every experiment is put to"),
        ("block-groups", 3, "groups that the layers of a component are tried in"),
        ("combinations", 30, "random plans to try beside every group alone"),
        ("processes", 2, "experiments at a time, each on one thread"),
    ):
        sensitivity.add_argument(f"--{name}", type=positive, default=default, help=f"{what} (default: {default})")
    sensitivity.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let the Ray cluster there measure (auto: the one that this machine belongs to), an experiment a CPU; "
        "its machines have to see the checkpoint and --out at the same paths",
    )
    sensitivity.set_defaults(after_interrupt="; finished experiments are kept: run the same command again to go on")


def _frame_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or not all(0 < int(side) <= 65536 for side in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a frame; write width and height, as 1920x1080")
    return int(match[1]), int(match[2])


def _capabilities(text: str) -> tuple[str, ...]:
    capabilities = tuple(text.split(","))
    if not all(re.fullmatch(r"\d+\.\d", capability) for capability in capabilities):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of compute capabilities; write for instance 8.6,8.9")
    return capabilities


_CALIBRATION_HELP = "images to calibrate on, of the kind to be inspected (default: rendered:512)"
_TARGET_HELP = """what will execute the bundle: onnxruntime (any machine's CPU), onnxruntime-amx (x86-64
CPUs with AMX, several times as fast there; edge-runtime doctor tells), tensorrt (a Jetson or another machine
with TensorRT; build it there), tensorrt-rtx (GeForce RTX; needs no GPU to build)"""

_EXAMPLES = """\
examples:
  edge-engines plan synthetic:llava-1.5-13b --budget 11.4GB       would it fit?
  edge-engines plan llava-1.5-7b-hf --device orin-nano-8gb        and there? how fast?
  edge-engines build llava-1.5-7b-hf --out out/bundle             vision encoder in float16, decoder in 4 bits
  edge-engines build llava-1.5-7b-hf --recipe fp16 --out out/fp16
  edge-engines calibrate llava-1.5-7b-hf --out ranges             hours of work that a Jetson need not do
  edge-engines verify out/bundle --checkpoint llava-1.5-7b-hf     is it still the same model?
  edge-engines sensitivity engines/reference/checkpoint           which of its parts need their bits?
  edge-engines build resnet18.onnx --family cnn --preprocessing imagenet --images photos --out resnet18.int8.onnx
  edge-engines build engines/reference/checkpoint --recipe auto --measurements sensitivity.jsonl --budget 330MB \\
      --out out/auto                                              the best plan that fits, by that

CHECKPOINT is a model's directory (config.json, safetensors, tokenizer.json), or synthetic:llava-1.5-7b,
synthetic:llava-1.5-13b, synthetic:llava-1.6-mistral-7b, synthetic:llava-1.6-vicuna-7b, synthetic:tiny-llava,
synthetic:tiny-llava-next: random weights at a real model's shape. synthetic:llama-3.2-vision-11b can be planned, and
not built.

RECIPE is fp16, asymmetric-int4, asymmetric-int4-awq, asymmetric-int4-gptq, asymmetric-int4-awq-gptq, asymmetric-int8,
asymmetric-int8-percentile, compact-int4, nf4, selective-int8, language-int4, uniform-int4, auto, or a YAML file like
those in engines/recipes. There, except: gives some matrices another precision, by a pattern of their names; a pattern
that ends with products, as "*.products", has INT8 round what the vision encoder's attention multiplies, too.

exit codes: 0 done, 1 an error, 2 usage, 3 verification failed, 4 does not fit the budget, 130 interrupted
"""
