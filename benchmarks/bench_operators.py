"""Operators for AMX beside ONNX Runtime's own, by turns in one process: products of a 7B and a ViT-L, attention.

    python -m benchmarks.bench_operators [--turns 15]

Medians in milliseconds, on all cores. A matrix here is alone, and stays in a server's cache; in a decoder it does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.cli.arguments import positive
from edge_runtime.cli.exit_codes import exit_code
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.lowering.onnxruntime_amx import AmxLowering
from engines.layers.op_lowering import CausalAttention
from engines.layers.weights import Linear, Matrix
from engines.onnx.builder import Graph
from engines.quantize.methods.rtn import quantize_rtn

LOWERINGS = (OnnxRuntimeLowering(), AmxLowering())
HEADS, HEAD_DIM, CAPACITY = 32, 128, 2048
_RANDOM = np.random.default_rng(0)


def product(
    directory: Path, lowering: OnnxRuntimeLowering, weight: Matrix, columns: int, rows: int
) -> Callable[[], None]:
    """The call that multiplies ``rows`` random rows by a matrix."""
    path = directory / f"{type(lowering).__name__}.onnx"
    linear = Linear("product", weight, None)
    with Graph(path) as graph:
        x = graph.input("x", "float32", (1, "T", columns))
        graph.output("y", "float32", (1, "T", linear.width), lowering.linear(graph, x, linear))
        graph.save()
    x_rows = _RANDOM.normal(size=(1, rows, columns)).astype(np.float32)
    return OnnxRuntimeBackend().load(path).bind({"x": x_rows}, {"y": np.zeros((1, rows, linear.width), np.float32)})


def attention(directory: Path, lowering: OnnxRuntimeLowering, rows: int, past: int) -> Callable[[], None]:
    """The call that attends with ``rows`` rows behind ``past`` tokens, in place."""
    path = directory / f"{type(lowering).__name__}.onnx"
    angles = np.zeros((CAPACITY, HEAD_DIM // 2), np.float32)
    with Graph(path) as graph:
        qkv = graph.input("qkv", "float32", (1, "T", 3 * HEADS * HEAD_DIM))
        sizes = CausalAttention(HEADS, HEADS, HEAD_DIM, np.cos(angles), np.sin(angles))
        context = lowering.causal_attention(graph, qkv, 0, sizes)
        graph.output("context", "float32", (1, "T", HEADS * HEAD_DIM), context)
        graph.save()
    dtype = next(spec.dtype for spec in graph.inputs if spec.name.startswith("past_key"))
    cache = {part: _RANDOM.normal(size=(1, HEADS, CAPACITY, HEAD_DIM)).astype(dtype) for part in ("key", "value")}
    inputs = {"qkv": _RANDOM.normal(size=(1, rows, 3 * HEADS * HEAD_DIM)).astype(np.float32)}
    inputs |= {f"past_{part}.0": array for part, array in cache.items()}
    inputs |= {"seqlens_k": np.array([past + rows - 1], np.int32)}
    inputs |= {"total_sequence_length": np.array([past + rows], np.int32)}
    outputs = {"context": np.zeros((1, rows, HEADS * HEAD_DIM), np.float32)}
    return OnnxRuntimeBackend().load(path).bind(inputs, outputs | {f"present_{p}.0": a for p, a in cache.items()})


def compare(name: str, turns: int, make: Callable[[Path, OnnxRuntimeLowering], Callable[[], None]]) -> None:
    """Print how long it takes by either's operators."""
    with tempfile.TemporaryDirectory() as directory:
        calls = [make(Path(directory), lowering) for lowering in LOWERINGS]
        taken_ms: list[list[float]] = [[], []]
        for turn in range(turns + 1):
            for call, times in zip(calls, taken_ms, strict=True):
                started_s = time.perf_counter()
                call()
                if turn:
                    times.append(1e3 * (time.perf_counter() - started_s))
    theirs, ours = map(median, taken_ms)
    print(f"| {name} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |", flush=True)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=positive, default=15, help="of each (default: %(default)s)")
    turns = parser.parse_args().turns
    print("| | ONNX Runtime's, ms | ours, ms | times as fast |\n|---|---:|---:|---:|")
    int4 = quantize_rtn(_RANDOM.normal(size=(22016, 4096)).astype(np.float16), 128)
    for rows in (1, 4, 72, 192):
        compare(f"{rows} rows by 4 bits, 4096 x 22016", turns, lambda d, k: product(d, k, int4, 4096, rows))  # noqa: B023
    for columns, width in ((1024, 3072), (1024, 4096), (4096, 1024)):
        weight = _RANDOM.normal(size=(width, columns)).astype(np.float16)
        name = f"577 rows by float16, {columns} x {width}"
        compare(name, turns, lambda d, k: product(d, k, weight, columns, 577))  # noqa: B023
    for rows, past in ((1, 640), (4, 640), (72, 568), (160, 480)):
        name = f"attention of {rows} behind {past}, {HEADS} heads of {HEAD_DIM}"
        compare(name, turns, lambda d, k: attention(d, k, rows, past))  # noqa: B023
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("bench_operators", main))
