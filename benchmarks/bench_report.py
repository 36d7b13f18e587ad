"""How long a report takes: a bundle beside transformers' ``generate`` on the same weights, in one run.

    python -m benchmarks.bench_report BUNDLE [--checkpoint DIR] [--frames 20] [--json FILE]

Both turn the same frames into the same number of tokens on the same cores, by turns, so that whatever else the
machine does falls on both. ``generate`` gets float32 weights, in which torch is fastest on a CPU, the key/value cache,
greedy decoding, and exactly as many tokens as the bundle's answer had. Preprocessing counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

from edge_runtime import Inspector
from edge_runtime.bundle import PromptSpec
from engines.reference.scenes import FIRST_HELD_OUT_SEED, render_scene

CHECKPOINT = Path(__file__).parents[1] / "engines" / "reference" / "checkpoint"
Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    frames: int
    threads: int
    tokens_median: float
    bundle_ms: float  # medians
    transformers_ms: float
    ratio: float  # median of each frame's own


def compare(bundle: Path, checkpoint: Path, frames: int) -> Result:
    """Time both on ``frames`` held-out scenes, after one unmeasured frame each."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    ours_ms, theirs_ms, tokens = [], [], []
    with Inspector.open(bundle, threads=threads) as inspector:
        generate = open_generate(checkpoint, inspector.bundle.manifest.prompt)
        for number in range(frames + 1):
            frame = render_scene(FIRST_HELD_OUT_SEED + number).image
            started_s = time.perf_counter()
            report = inspector.inspect(frame)
            inspected_s = time.perf_counter()
            generate(frame, max(report.tokens, 1))
            generated_s = time.perf_counter()
            if number > 0:  # the first binds and compiles
                ours_ms.append(1e3 * (inspected_s - started_s))
                theirs_ms.append(1e3 * (generated_s - inspected_s))
                tokens.append(report.tokens)
    return Result(
        frames=frames,
        threads=threads,
        tokens_median=median(tokens),
        bundle_ms=median(ours_ms),
        transformers_ms=median(theirs_ms),
        ratio=median(theirs / ours for ours, theirs in zip(ours_ms, theirs_ms, strict=True)),
    )


def open_generate(checkpoint: Path, prompt: PromptSpec) -> Callable[[Frame, int], None]:
    """A call that runs a frame through the image processor and then through ``generate`` for so many tokens."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    image = tokenizer.convert_ids_to_tokens(model.config.image_token_index) * model.config.image_seq_length
    input_ids = tokenizer(prompt.before_image + image + prompt.after_image, return_tensors="pt").input_ids

    @torch.inference_mode()
    def generate(frame: Frame, tokens: int) -> None:
        pixels = processor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), return_tensors="pt").pixel_values
        written = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=pixels,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )
        assert written.shape[1] == input_ids.shape[1] + tokens

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    result = compare(arguments.bundle, arguments.checkpoint, arguments.frames)
    document = json.dumps(asdict(result))
    print(f"{result.frames} frames, {result.tokens_median:.0f} tokens each, {result.threads} threads; medians")
    print(f"  {arguments.bundle.name:24}{result.bundle_ms:8.1f} ms")
    print(f"  {'transformers generate':24}{result.transformers_ms:8.1f} ms   {result.ratio:.1f} times as long")
    print(document)
    if arguments.json:
        arguments.json.write_text(document + "\n")


if __name__ == "__main__":
    main()
