"""How long a report takes: a bundle beside transformers' ``generate`` on the same weights, in one run.

    python -m benchmarks.bench_report BUNDLE [--checkpoint DIR] [--frames 40] [--cores 2] [--json FILE]

Both turn the same held-out scenes into text of the same number of tokens, on the same cores and by turns, so that
whatever else the machine does falls on both. ``generate`` is called as its documentation does: the model's own
processor for picture and prompt, float32 weights, the key/value cache, greedy decoding; and it writes exactly as many
tokens as the bundle's answer to that frame has. Scenes without a defect count, although their answers have 3 tokens;
the JSON line has every frame, so that long answers can be told from short ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

from edge_runtime import Inspector
from edge_runtime.bundle.manifest import PromptSpec
from edge_runtime.cli.exit_codes import exit_code
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene

CHECKPOINT = Path(__file__).parents[1] / "engines" / "reference" / "checkpoint"
STEPS = ("preprocess", "vision", "prefill", "decode")
SETTLING_S = 0.1  # torch's idle threads go on spinning, and would take a core from whoever comes next
Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    frames: int
    cores: int
    tokens: float  # of an answer; this and what follows are medians
    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    bundle_ms: float  # from frame to report
    transformers_ms: float  # from frame to text
    ratio: float  # transformers_ms / bundle_ms
    total_ratio: float  # the same of the sums over all frames
    per_frame: list[tuple[int, float, float]]  # tokens, bundle_ms, transformers_ms


def compare(bundle: Path, checkpoint: Path, frames: int, cores: int) -> Result:
    """Time both on ``frames`` held-out scenes, after one unmeasured frame each."""
    torch.set_num_threads(cores)
    reports, per_frame = [], []
    with Inspector.open(bundle, threads=cores) as inspector:
        generate = open_generate(checkpoint, inspector.bundle.manifest.prompt)
        for number in range(frames + 1):
            frame = render_scene(FIRST_HELD_OUT_SEED + number).image
            time.sleep(SETTLING_S)
            started_s = time.perf_counter()
            report = inspector.inspect(frame)
            bundle_ms = 1e3 * (time.perf_counter() - started_s)
            time.sleep(SETTLING_S)
            started_s = time.perf_counter()
            generate(frame, report.tokens)
            transformers_ms = 1e3 * (time.perf_counter() - started_s)
            if number > 0:  # the first binds and compiles
                reports.append(report)
                per_frame.append((report.tokens, bundle_ms, transformers_ms))
    _, ours, theirs = zip(*per_frame, strict=True)
    return Result(
        frames=frames,
        cores=cores,
        tokens=median(report.tokens for report in reports),
        preprocess_ms=median(report.timings.preprocess_ms for report in reports),
        vision_ms=median(report.timings.vision_ms for report in reports),
        prefill_ms=median(report.timings.prefill_ms for report in reports),
        decode_ms=median(report.timings.decode_ms for report in reports),
        bundle_ms=median(ours),
        transformers_ms=median(theirs),
        ratio=median(theirs) / median(ours),
        total_ratio=sum(theirs) / sum(ours),
        per_frame=per_frame,
    )


def open_generate(checkpoint: Path, prompt: PromptSpec) -> Callable[[Frame, int], str]:
    """A call that turns a frame into a text of so many tokens."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    image_token = tokenizer.convert_ids_to_tokens(model.config.image_token_index)
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(checkpoint),
        tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        image_token=image_token,
        num_additional_image_tokens=1,  # the class token, which "default" then drops
    )
    text = prompt.before_image + image_token + prompt.after_image

    @torch.inference_mode()
    def generate(frame: Frame, tokens: int) -> str:
        inputs = processor(images=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), text=text, return_tensors="pt")
        written = model.generate(**inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
        answer = written[0, inputs["input_ids"].shape[1] :]
        assert len(answer) == tokens
        return str(processor.decode(answer, skip_special_tokens=True))

    return generate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory that edge-engines build wrote")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="what it was built from (%(default)s)")
    parser.add_argument("--frames", type=int, default=40, help="scenes to time (%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="of those that this process may use (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    mine = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, mine)  # threads that are started from now on inherit it
    result = compare(arguments.bundle, arguments.checkpoint, arguments.frames, len(mine))
    print(f"{result.frames} frames, {result.tokens:.0f} tokens each, {result.cores} cores; medians")
    steps = ", ".join(f"{step} {getattr(result, f'{step}_ms'):.1f}" for step in STEPS)
    print(f"  {arguments.bundle.name:24}{result.bundle_ms:8.1f} ms   {steps}")
    ratios = f"{result.ratio:.1f} times as long; {result.total_ratio:.1f} times over all frames"
    print(f"  {'transformers generate':24}{result.transformers_ms:8.1f} ms   {ratios}")
    document = json.dumps(asdict(result))
    print(document)
    if arguments.json:
        arguments.json.write_text(document + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("bench_report", main))
