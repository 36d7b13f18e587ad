"""How long GPTQ takes, and how much memory, for one decoder layer of LLaVA-1.5 13B on 128 samples of 700 tokens.

    python -m benchmarks.bench_gptq [--model llava-1.5-13b] [--samples 128] [--tokens 700]

The layer's matrices are those of a synthetic checkpoint; its inputs are random, correlated, and loud in a few channels,
made a sample at a time as calibration sees them. Time and memory of the sums and of the rounding follow shapes alone,
so that nothing is missing but the pass of the samples through the layer in float32, which ONNX Runtime makes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.quantize.activations import ActivationMeter
from engines.quantize.methods.gptq import quantize_gptq

BLOCK_SIZE = 128
DIRECTIONS = 256  # that rows share
LOUD_CHANNELS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llava-1.5-13b")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=700)
    args = parser.parse_args()
    checkpoint = open_checkpoint(f"synthetic:{args.model}")
    parts = [part for part in read_model(checkpoint, 1).parts if part.role == "decoder"]
    total_s = total_cpu_s = 0.0
    for matrix, names in parts[0].matrices.items():
        weight = np.concatenate([checkpoint.tensor(name) for name in names])
        started, started_cpu = time.perf_counter(), time.process_time()
        meter = ActivationMeter(weight.shape[1])
        for rows in inputs(weight.shape[1], args.samples, args.tokens):
            meter.add(rows)
        activations = meter.finish()
        measured = time.perf_counter()
        found = quantize_gptq(weight, BLOCK_SIZE, activations)
        done = time.perf_counter()
        total_s += done - started
        total_cpu_s += time.process_time() - started_cpu
        line = {
            "matrix": matrix.rpartition(".")[2],
            "shape": list(weight.shape),
            "sums_s": round(measured - started, 1),
            "rounding_s": round(done - measured, 1),
            "output_error": float(f"{found.output_error:.3g}"),
            "rtn_output_error": float(f"{found.rtn_output_error:.3g}"),
            "peak_gb": round(peak_gb(), 2),
        }
        print(json.dumps(line), flush=True)
    model = {"layer_s": round(total_s), "layer_cpu_s": round(total_cpu_s), "layers": len(parts)}
    model["model_h"] = round(total_s * len(parts) / 3600, 1)
    print(json.dumps({**model, "peak_gb": round(peak_gb(), 2)}))
    return 0


def inputs(columns: int, samples: int, tokens: int) -> Iterator[NDArray[np.float32]]:
    """Samples (tokens, columns), correlated and with loud channels; the same every time."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(DIRECTIONS, columns)).astype(np.float32)
    gains = np.ones(columns, np.float32)
    gains[rng.choice(columns, LOUD_CHANNELS, replace=False)] = 30
    for _ in range(samples):
        shared = rng.standard_normal((tokens, DIRECTIONS), np.float32) @ directions / np.sqrt(DIRECTIONS)
        yield (shared + rng.standard_normal((tokens, columns), np.float32)) * gains


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    sys.exit(main())
