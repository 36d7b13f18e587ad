"""How time and bytes grow with the context, the number of images and the size of the model: docs/growth.svg.

    python -m benchmarks.growth [--out out/growth]

Decoders 1024 wide, of 8, 16 and 32 layers, with random weights; 576 tokens an image. What should be a straight line has
one drawn through it, by least squares, and is refused where it explains less than 95 % of what was measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.growth_plot import Panel, panels_svg
from edge_runtime import Inspector
from edge_runtime.budget import plan_ledger
from edge_runtime.bundle import load_bundle
from edge_runtime.ending import exit_code
from edge_runtime.loading import LoadedBundle
from edge_runtime.pressure import Watch, limits_of
from edge_runtime.telemetry import resident_bytes, total_bytes
from engines.build import build
from engines.precision import load_recipe
from engines.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint

PLOT = Path("docs/growth.svg")
LAYERS = (8, 16, 32)
CONTEXT = 4096
CHUNK = 256
IMAGES = 8
TOKENS = 5  # timed one by one at each length
STRAIGHT = 0.95
_VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4}
_TEXT = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}


def build_model(layers: int, out: Path) -> Path:
    """The bundle of so many layers, built where it is missing."""
    path = out / f"{layers}-layers"
    if not path.exists():
        base = SYNTHETIC_CONFIGS["llava-1.5-7b"]
        config = {
            **base,
            "vision_config": {**base["vision_config"], **_VISION},
            "text_config": {**base["text_config"], **_TEXT, "num_hidden_layers": layers},
        }
        build(synthetic_checkpoint(path.name, config), load_recipe("asymmetric-int4"), "onnxruntime", path)
    return path


@contextmanager
def loaded(path: Path, capacity: int) -> Iterator[LoadedBundle]:
    """A bundle's engines, with a cache of ``capacity`` tokens."""
    bundle, watch = load_bundle(path), Watch(limits_of(total_bytes()))
    ledger = watch.admit(plan_ledger(bundle.manifest, capacity), None)
    engines = LoadedBundle(bundle, ledger, watch, None, (), capacity)
    try:
        yield engines
    finally:
        engines.close()


def against_context(path: Path) -> list[Panel]:
    """Reading a piece of the prompt, writing a token, and the cache's bytes, at one context after another."""
    read, written = [], []
    with loaded(path, CONTEXT) as engines:
        decoder = engines.decoder
        decoder.append([7] * CHUNK)  # binds memory
        decoder.forget()
        for length in range(0, CONTEXT - CHUNK - 2 * TOKENS, CHUNK):
            read.append((length, 1e3 * _seconds(lambda: decoder.append([7] * CHUNK))))
            behind = [_seconds(lambda: decoder.append([7])) for _ in range(TOKENS)]
            written.append((length + CHUNK, 1e3 * median(behind)))
    sizes = []
    for capacity in range(CONTEXT // 8, CONTEXT + 1, CONTEXT // 8):
        with loaded(path, capacity) as engines:
            sizes.append((capacity, resident_bytes() / 1e6, sum(i for n, i in engines.measured.items()) / 1e6))
    held = [(capacity, held_mb) for capacity, held_mb, _ in sizes]
    return [
        Panel(f"to read {CHUNK} tokens more", "tokens before them", "ms", read),
        Panel("to write a token", "tokens before it", "ms", written),
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
    """Loading, reading, writing and the engines' bytes of one model after another."""
    load, read, written, held = [], [], [], []
    for layers in LAYERS:
        path = build_model(layers, out)
        groups = load_bundle(path).manifest.decoder_groups
        size_mb = sum(group.size_bytes for group in groups) / 1e6
        started_s = time.perf_counter()
        with loaded(path, CONTEXT // 4) as engines:
            load.append((size_mb, time.perf_counter() - started_s))
            decoder = engines.decoder
            decoder.append([7] * CHUNK)
            tokens = [_seconds(lambda: decoder.append([7])) for _ in range(4 * TOKENS)]  # noqa: B023  called at once
            written.append((size_mb, 1e3 * median(tokens)))
            decoder.forget()
            read.append((size_mb, 1e3 * _seconds(lambda: decoder.append([7] * CHUNK))))  # noqa: B023
            held.append((size_mb, engines.measured["decoder"] / 1e6))
    by = "MB of decoder layers, as stored"
    return [
        Panel("to load", by, "s", load),
        Panel(f"to read {CHUNK} tokens", by, "ms", read),
        Panel("to write a token", by, "ms", written),
        Panel("the decoder in memory", by, "MB", held),
    ]


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def main() -> int:
    """Measure, draw and print; returns 1 where something is not as straight as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/growth"), help="where bundles are kept: 0.7 GB")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    smallest = build_model(LAYERS[0], out)
    panels = [*against_size(out), *against_context(smallest), *against_images(smallest)]
    for panel in panels:
        print(panel.verdict(STRAIGHT))
    PLOT.write_text(panels_svg(panels), encoding="utf-8")
    return int(any(panel.is_crooked(STRAIGHT) for panel in panels))


if __name__ == "__main__":
    sys.exit(exit_code("growth", main))
