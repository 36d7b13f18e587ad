"""How time and bytes grow with the context, the number of images and the size of the model: docs/growth.svg.

    python -m benchmarks.growth [--out out/growth]

Decoders 1024 wide, of 8 to 32 layers, with random weights; 576 tokens an image. What should be a straight line has
one drawn through it, by least squares, and is refused where it bends. Times are the fastest of a few,
as other work on the machine only ever adds to them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.growth.plot import Panel, panels_svg
from benchmarks.target import FASTEST
from edge_runtime import Inspector
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.loaded_bundle import LoadedBundle
from edge_runtime.memory.monitor import ResourceMonitor, limits_of
from edge_runtime.memory.plan import plan_memory
from edge_runtime.memory.telemetry import resident_bytes, total_bytes
from engines.build import build
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint
from engines.quantize.recipe import load_recipe

PLOT = Path("docs/growth.svg")
LAYERS = (8, 16, 24, 32)
CONTEXT = 4096
CHUNK = 256
IMAGES = 8
TOKENS = 5  # timed one by one at each length
PASSES = 8
_VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4}
_TEXT = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}


def build_model(layers: int, out: Path) -> Path:
    """The bundle of so many layers, built where it is missing."""
    path = out / f"{layers}-layers-{FASTEST}"
    if not path.exists():
        base = SYNTHETIC_CONFIGS["llava-1.5-7b"]
        config = {
            **base,
            "vision_config": {**base["vision_config"], **_VISION},
            "text_config": {**base["text_config"], **_TEXT, "num_hidden_layers": layers},
        }
        build(synthetic_checkpoint(path.name, config), load_recipe("asymmetric-int4"), FASTEST, path)
    return path


@contextmanager
def loaded(path: Path, capacity: int) -> Iterator[LoadedBundle]:
    """A bundle's engines, with a cache of ``capacity`` tokens."""
    bundle, monitor = load_bundle(path), ResourceMonitor(limits_of(total_bytes()))
    memory_plan = monitor.admit(plan_memory(bundle.manifest, capacity), None)
    engines = LoadedBundle(bundle, memory_plan, monitor, None, (), capacity)
    try:
        yield engines
    finally:
        engines.close()


def against_context(path: Path) -> list[Panel]:
    """Reading a piece of the prompt, writing a token, and the cache's bytes, at one context after another."""
    read: dict[int, list[float]] = {}
    written: dict[int, list[float]] = {}
    with loaded(path, CONTEXT) as engines:
        decoder = engines.decoder
        decoder.append([7] * CHUNK)  # binds memory
        for _ in range(PASSES):
            decoder.forget()
            for length in range(0, CONTEXT - CHUNK - TOKENS, CHUNK + TOKENS):
                read.setdefault(length, []).append(_seconds(lambda: decoder.append([7] * CHUNK)))
                tokens_s = [_seconds(lambda: decoder.append([7])) for _ in range(TOKENS)]
                written.setdefault(length + CHUNK, []).append(min(tokens_s))
    held = []
    for capacity in range(CONTEXT // 8, CONTEXT + 1, CONTEXT // 8):
        with loaded(path, capacity):
            held.append((capacity, resident_bytes() / 1e6))
    return [
        Panel(f"to read {CHUNK} tokens more", "tokens before them", "ms", _fastest_ms(read)),
        Panel("to write a token", "tokens before it", "ms", _fastest_ms(written)),
        Panel("the process, by the context reserved", "tokens reserved", "MB", held),
    ]


def against_images(path: Path) -> list[Panel]:
    """All seconds, and the process's bytes, after one image, two, ..."""
    frames = np.random.default_rng(0).integers(0, 256, (IMAGES + 1, 336, 336, 3), dtype=np.uint8)
    spent_s, times, sizes = 0.0, [], []
    with Inspector.open(path, max_report_tokens=90) as inspector:
        inspector.inspect(frames[-1])  # binds memory
        for count, frame in enumerate(frames[:-1], start=1):
            spent_s += inspector.inspect(frame).timings.total_ms / 1e3
            times.append((count, spent_s))
            sizes.append((count, resident_bytes() / 1e6))
    return [
        Panel("to report on images", "images", "s", times),
        Panel("the process meanwhile", "images", "MB", sizes, is_flat=True),
    ]


def against_size(out: Path) -> list[Panel]:
    """Loading, reading, writing and the engines' bytes of one model after another, each in a process of its own."""
    sizes = []
    for layers in LAYERS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            sizes.append(alone.submit(_size, build_model(layers, out)).result())
    titles = {"to load": "s", f"to read {CHUNK} tokens": "ms", "to write a token": "ms", "the decoder in memory": "MB"}
    by = "MB of decoder layers, as stored"
    return [
        Panel(title, by, unit, [(size[0], size[number]) for size in sizes])
        for number, (title, unit) in enumerate(titles.items(), start=1)
    ]


def _size(path: Path) -> tuple[float, float, float, float, float]:
    """MB on disk; seconds to load; milliseconds to read a piece and to write a token; MB in memory."""
    groups = load_bundle(path).manifest.decoder_groups
    load_s, read_s, token_s = [], [], []
    with loaded(path, CONTEXT // 4) as engines:
        held_mb = engines.measured["decoder"] / 1e6  # first: later, what was freed is taken again
    for _ in range(4):
        with ExitStack() as opened:
            load_s.append(_seconds(lambda: opened.enter_context(loaded(path, CONTEXT // 4))))
    with loaded(path, CONTEXT // 4) as engines:
        decoder = engines.decoder
        for _ in range(PASSES):
            decoder.forget()
            read_s.append(_seconds(lambda: decoder.append([7] * CHUNK)))
            token_s += [_seconds(lambda: decoder.append([7])) for _ in range(TOKENS)]
    return sum(group.size_bytes for group in groups) / 1e6, min(load_s), 1e3 * min(read_s), 1e3 * min(token_s), held_mb


def _fastest_ms(seconds: dict[int, list[float]]) -> list[tuple[float, float]]:
    return [(tokens, 1e3 * min(several)) for tokens, several in seconds.items()]


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def main() -> int:
    """Measure, draw and print; returns 1 where something is not as straight as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/growth"), help="where bundles are kept: 1 GB")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    smallest = build_model(LAYERS[0], out)
    panels = [*against_size(out), *against_context(smallest), *against_images(smallest)]
    for panel in panels:
        print(panel.verdict)
    PLOT.write_text(panels_svg(panels), encoding="utf-8")
    return int(any(panel.is_crooked for panel in panels))
