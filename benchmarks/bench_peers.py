"""A bundle's decoder beside what a user would pick instead: one run, by turns, same shapes, same threads.

    make bench-peers
    python -m benchmarks.bench_peers --layers 4 --rounds 1
    python -m benchmarks.bench_peers --bundle out/llava-1.5-7b --json out/peers.json

Weights are random at the model's real shape: bytes and seconds are real, and words are not. Every peer is loaded, timed
and ended in a process of its own, one after another, in every round; figures are medians of the rounds, ratios those
of the medians. ``--layers`` cuts the decoder for a quick look. Files are made once, and kept in ``out/peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.answer import answer_steps
from benchmarks.peers.bandwidth import read_bytes_per_s
from benchmarks.peers.measure import PEERS, PROMPTS, Figures
from benchmarks.peers.shapes import checkpoint_of, llama_of
from benchmarks.target import FASTEST
from edge_runtime.cli.arguments import positive
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.memory.telemetry import kilobyte_fields
from engines.build import build
from engines.layers.decoder import LlamaConfig
from engines.quantize.recipe import load_recipe

_SAMPLE_S = 0.05
OURS = "edge-runtime"


@dataclass(frozen=True)
class Turn:
    """What one process of a peer showed."""

    figures: Figures
    peak_bytes: int  # resident
    own_bytes: int  # of these not backed by a file, so that only swapping could free them


def run_peer(name: str, files: Path, steps: Sequence[int], options: argparse.Namespace) -> Turn | str:
    """Time one peer in a process of its own; or say why that failed."""
    sizes = [options.model, str(options.layers or 0), str(options.threads), ",".join(map(str, steps))]
    command = [sys.executable, "-m", "benchmarks.peers.measure", name, str(files), *sizes]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        peak_bytes, own_bytes = _watched(process)
        output = process.communicate()[0]
        errors.seek(0)
        complaint = errors.read().strip().splitlines()
    if process.returncode:
        return complaint[-1] if complaint and process.returncode > 0 else f"ended by signal {-process.returncode}"
    return Turn(_figures_from(json.loads(output.splitlines()[-1])), peak_bytes, own_bytes)


def _watched(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Wait for a process; its peak of resident memory, and of what of it is its own."""
    peak_bytes = own_bytes = 0
    while process.poll() is None:
        status = kilobyte_fields(Path(f"/proc/{process.pid}/status"))
        peak_bytes, own_bytes = max(peak_bytes, status.get("VmHWM", 0)), max(own_bytes, status.get("RssAnon", 0))
        time.sleep(_SAMPLE_S)
    return peak_bytes, own_bytes


def _figures_from(values: Mapping[str, Any]) -> Figures:
    by_tokens = {key: {int(n): s for n, s in values[key].items()} for key in ("prefill_s", "token_s")}
    return Figures(**{**values, **by_tokens})


def write_files(directory: Path, options: argparse.Namespace) -> dict[str, Path]:
    """What each of the peers loads, made where it is missing."""
    checkpoint, llama = checkpoint_of(options.model, options.layers), llama_of(options.model, options.layers)

    def write_bundle(path: Path) -> None:
        build(checkpoint, load_recipe(options.recipe), options.target, path)

    directory.mkdir(parents=True, exist_ok=True)
    files = dict.fromkeys(PEERS, directory)
    files[OURS] = options.bundle or _made(directory / f"{options.recipe}-{options.target}", write_bundle)
    if "llama.cpp" in options.peers:
        files["llama.cpp"] = _made(directory / "q4_0.gguf", lambda path: _write_gguf(path, llama))
    if "onnxruntime-genai" in options.peers:
        files["onnxruntime-genai"] = _made(directory / "genai", lambda path: _write_genai(path, checkpoint, llama))
    return files


def _write_gguf(path: Path, llama: LlamaConfig) -> None:
    from benchmarks.peers.gguf_file import write_gguf  # needs gguf, and the other peers don't

    write_gguf(path, llama)


def _write_genai(path: Path, checkpoint: Any, llama: LlamaConfig) -> None:
    from benchmarks.peers.genai_model import write_genai

    write_genai(path, checkpoint, llama)


def _made(path: Path, write: Callable[[Path], None]) -> Path:
    """``path``, written under another name first, so that what is there is whole."""
    if not path.exists():
        print(f"writing {path}", file=sys.stderr)
        unfinished = path.with_name(f"{path.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(path)
    return path


@dataclass(frozen=True)
class Result:
    """Medians of one peer."""

    name: str
    decode_tokens_per_s: dict[int, float]  # by tokens before
    answer_tokens_per_s: float  # of one under the grammar, behind the longest prompt
    read_share: float  # weights that a token reads, over its time and what the machine reads
    prefill_s: dict[int, float]  # by tokens of the prompt
    load_s: float
    peak_bytes: int
    own_bytes: int
    see_s: float | None
    scaled: bool


def result_of(name: str, turns: list[Turn], bandwidths: list[float], answer_tokens: int) -> Result:
    """The medians of a peer's turns, who all wrote an answer of so many tokens."""
    figures = [turn.figures for turn in turns]

    def middle(of: Callable[[Figures], float]) -> float:
        return median(map(of, figures))

    token_s = {tokens: middle(lambda f: f.token_s[tokens]) for tokens in figures[0].token_s}  # noqa: B023  called at once
    return Result(
        name=name,
        decode_tokens_per_s={tokens: 1 / seconds for tokens, seconds in token_s.items()},
        answer_tokens_per_s=answer_tokens / middle(lambda f: f.answer_s),
        read_share=figures[0].weight_bytes / token_s[1] / median(bandwidths),
        prefill_s={tokens: middle(lambda f: f.prefill_s[tokens]) for tokens in PROMPTS},  # noqa: B023
        load_s=middle(lambda f: f.load_s),
        peak_bytes=round(median(turn.peak_bytes for turn in turns)),
        own_bytes=round(median(turn.own_bytes for turn in turns)),
        see_s=None if figures[0].see_s is None else middle(lambda f: f.see_s or 0),
        scaled=figures[0].scaled,
    )


def table(results: list[Result]) -> str:
    """A row a peer, and behind ours how many times as fast it is as each other."""
    short, long = PROMPTS
    lines = [
        f"{'':24}decode tokens/s  of an  share  prefill s of       load    peak, its own   see",
        f"{'':24}at {1:<6}at {long:<5}answer  read  {short:<8}{long:<8}  s       GB     GB      ms",
    ]
    for r in results:
        see = "" if r.see_s is None else f"{1e3 * r.see_s:.0f}"
        # Weights of layers that aren't there were not loaded either.
        loading = [f"{r.load_s:.1f}", f"{r.peak_bytes / 1e9:.2f}", f"{r.own_bytes / 1e9:.2f}"]
        loading = [""] * 3 if r.scaled else loading
        decode, prefill = r.decode_tokens_per_s, r.prefill_s
        lines.append(
            f"{r.name + ' *' * r.scaled:24}{decode[1]:<9.2f}{decode[long]:<8.2f}{r.answer_tokens_per_s:<7.2f}"
            f"{100 * r.read_share:3.0f} %  "
            f"{prefill[short]:<8.2f}{prefill[long]:<8.2f}{loading[0]:>5}{loading[1]:>9}{loading[2]:>7}{see:>8}"
        )
    ours = [r for r in results if r.name == OURS]
    lines += [f"{OURS} against {r.name}: {_ratios(one, r)}" for one in ours for r in results if r is not one]
    return "\n".join(lines)


def _ratios(ours: Result, theirs: Result) -> str:
    ratios = {
        f"decode at {tokens}": ours.decode_tokens_per_s[tokens] / theirs.decode_tokens_per_s[tokens]
        for tokens in (1, PROMPTS[-1])
    }
    ratios["an answer"] = ours.answer_tokens_per_s / theirs.answer_tokens_per_s
    ratios |= {f"prefill of {tokens}": theirs.prefill_s[tokens] / ours.prefill_s[tokens] for tokens in PROMPTS}
    if ours.see_s and theirs.see_s:
        ratios["seeing"] = theirs.see_s / ours.see_s
    return ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())


def main() -> int:
    """Measure, print the table; returns 1 where our own bundle could not be measured."""
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # processes started from now inherit it
    files = write_files(options.out / f"{options.model}-{options.layers or 'all'}", options)
    turns: dict[str, list[Turn]] = {name: [] for name in options.peers}
    bandwidths, steps = [], answer_steps()
    for number in range(options.rounds):
        bandwidths.append(read_bytes_per_s(options.threads))
        for name in [name for name in options.peers if len(turns[name]) == number]:  # who failed once is out
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            turn = run_peer(name, files[name], steps, options)
            if isinstance(turn, str):
                print(f"{name} is not measured: {turn}")
            else:
                turns[name].append(turn)
    results = [result_of(name, turns[name], bandwidths, sum(steps)) for name in options.peers if turns[name]]
    layers = llama_of(options.model, options.layers).num_layers
    print(
        f"{options.model}, {layers} decoder layers, {options.threads} threads, {options.rounds} rounds; this machine "
        f"reads {median(bandwidths) / 1e9:.1f} GB/s; an answer of {sum(steps)} tokens in {len(steps)} steps"
    )
    print(table(results))
    if any(result.scaled for result in results):
        print("* run with 4 layers, and calculated for all: every layer more takes as long as those")
    if options.json:
        document = {"bandwidth": bandwidths, "peers": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(document) + "\n")
    return int(not turns.get(OURS))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["llava-1.5-7b", "llava-1.5-13b"]
    parser.add_argument("--model", choices=models, default=models[0], help="(default: %(default)s)")
    parser.add_argument("--layers", type=positive, help="of the decoder (default: all)")
    parser.add_argument("--recipe", default="language-int4", help="of our bundle (default: %(default)s)")
    parser.add_argument("--target", default=FASTEST, help="of our bundle (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="one that is built already, of the same shape")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--rounds", type=positive, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="(default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("out/peers"), help="where files are kept: 13 GB for a 7B")
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code("bench_peers", main))
