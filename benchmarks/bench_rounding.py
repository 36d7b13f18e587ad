"""Our 4-bit rounding beside public implementations: same weights, same calibration rows, same held-out rows, one run.

    pip install nvidia-modelopt llmcompressor torch transformers
    python -m benchmarks.bench_rounding [--checkpoint DIR] [--calibrate 16] [--held-out 10] [--out FILE]

Every matrix of the reference inspector's decoder is rounded to symmetric INT4 in blocks of 128: by us, by ModelOpt's
AWQ (``INT4_AWQ_CFG``) and by llm-compressor's GPTQ (act-order ``weight``, damping 0.01). Rows are those that the model
itself makes of rendered scenes, prompt and true answer included. Said of each: squared error of the outputs over the
outputs on rows that nothing saw, perplexity of true answers with all of the decoder rounded, and seconds of CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from numpy.typing import NDArray
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from edge_runtime.preprocessing import pixels_from_frame
from edge_runtime.report import answer_from_findings
from engines.families import read_model
from engines.quantize.activations import measure_activations
from engines.quantize.awq import quantize_awq
from engines.quantize.gptq import quantize_gptq
from engines.quantize.int4 import dequantize
from engines.quantize.rtn import quantize_rtn
from engines.reference.scenes import FIRST_HELD_OUT_SEED, render_scene
from engines.synthetic import open_checkpoint

CHECKPOINT = Path(__file__).parents[1] / "engines" / "reference" / "checkpoint"
BLOCK = 128
_HEADING = """## Beside public implementations

The decoder's matrices in symmetric INT4, blocks of 128, all methods on the same weights and the same rows of rendered
scenes (`benchmarks/bench_rounding.py`). Errors are those of the outputs over the outputs, squared, mean of all
matrices: on rows of scenes that were held out, and on those that were seen."""
FIRST_CALIBRATION_SEED = 2_000_000_000
Float32 = NDArray[np.float32]


class Subject:
    """The model as transformers has it, whose decoder's matrices are rounded and put back."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.linears = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "language_model.layers" in name
        }
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._read = read_model(open_checkpoint(str(checkpoint)))

    @torch.no_grad()
    def run(self, seeds: range, rows: dict[str, list[Float32]] | None = None) -> float:
        """Perplexity of the true answers to scenes; what each matrix receives is added to ``rows``."""
        spec, prompt, eos = self._read.spec, self._read.prompt, self._read.spec.eos_token_ids[0]
        hooks = [
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: rows.setdefault(name, []).append(inputs[0][0].numpy().copy())
            )
            for name, module in (self.linears.items() if rows is not None else ())
        ]
        loss, count = 0.0, 0
        for seed in seeds:
            scene = render_scene(seed)
            answer = [*self._ids(answer_from_findings(scene.findings)), eos]
            before, after = self._ids(prompt.before_image), self._ids(prompt.after_image)
            image = [spec.image_token_id] * spec.num_image_tokens
            pixels = torch.tensor(pixels_from_frame(scene.image, self._read.preprocessing))
            ids = torch.tensor([[spec.bos_token_id, *before, *image, *after, *answer]])
            logits = self.model(input_ids=ids, pixel_values=pixels).logits[0, -len(answer) - 1 : -1]
            loss -= float(logits.log_softmax(-1)[range(len(answer)), answer].sum())
            count += len(answer)
        for hook in hooks:
            hook.remove()
        return float(np.exp(loss / count))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def by_us(method: str) -> Callable[[Float32, Float32], Float32]:
    def round_matrix(weight: Float32, rows: Float32) -> Float32:
        if method == "rtn":
            return dequantize(quantize_rtn(weight, BLOCK))
        activations = measure_activations(rows)
        if method == "gptq":
            return dequantize(quantize_gptq(weight, BLOCK, activations).matrix)
        found = quantize_awq(weight, BLOCK, activations)
        return dequantize(found.calibrated.matrix) / found.input_scales

    return round_matrix


def by_modelopt(weight: Float32, rows: Float32) -> Float32:
    model = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model[0].weight.data = torch.tensor(weight)
    with torch.no_grad():
        batches = torch.tensor(rows).split(512)
        mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop=lambda m: [m(batch) for batch in batches])
        return model(torch.eye(weight.shape[1])).T.numpy()  # what the matrix does, input scales included


def by_llmcompressor(weight: Float32, rows: Float32) -> Float32:
    arguments = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=BLOCK, actorder="weight")
    matrix, x = torch.tensor(weight), torch.tensor(rows)
    grouped = matrix.unflatten(1, (-1, BLOCK))
    scale, zero_point = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
    hessian = 2 / len(x) * x.T @ x
    found, _, _ = quantize_weight(matrix[None], hessian[None], scale[None], zero_point[None], None, arguments)
    return found[0].numpy()


METHODS: Mapping[str, Callable[[Float32, Float32], Float32]] = {
    "rounding to nearest": by_us("rtn"),
    "AWQ, ModelOpt": by_modelopt,
    "AWQ, ours": by_us("awq"),
    "GPTQ, llm-compressor": by_llmcompressor,
    "GPTQ, ours": by_us("gptq"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--calibrate", type=int, default=16, help="scenes (%(default)s)")
    parser.add_argument("--held-out", type=int, default=10, help="scenes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/quantization-peers.md"), help="(%(default)s)")
    args = parser.parse_args()
    subject = Subject(args.checkpoint)
    seen: dict[str, list[Float32]] = {}
    unseen: dict[str, list[Float32]] = {}
    held_out = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + args.held_out)
    subject.run(range(FIRST_CALIBRATION_SEED, FIRST_CALIBRATION_SEED + args.calibrate), seen)
    perplexity = subject.run(held_out, unseen)
    lines = [_HEADING, "", f"Perplexity of true answers at float32: {perplexity:.4f}.", ""]
    lines += ["| method | output error, held out | seen | perplexity | CPU seconds |", "|---|---:|---:|---:|---:|"]
    weights = {name: module.weight.detach().numpy().copy() for name, module in subject.linears.items()}
    for method, round_matrix in METHODS.items():
        errors, spent = [], 0.0
        for name, weight in weights.items():
            rows, others = np.concatenate(seen[name]), np.concatenate(unseen[name])
            started = time.process_time()
            rounded = round_matrix(weight.copy(), rows)
            spent += time.process_time() - started
            errors.append([_error(weight, rounded, x) for x in (others, rows)])
            subject.linears[name].weight.data = torch.tensor(rounded)
        held, own = np.mean(errors, axis=0)
        lines.append(f"| {method} | {held:.2e} | {own:.2e} | {subject.run(held_out):.4f} | {spent:.1f} |")
    args.out.write_text("\n".join([*lines, ""]), encoding="utf-8")  # stdout is where the others chat
    return 0


def _error(weight: Float32, rounded: Float32, rows: Float32) -> float:
    expected = rows.astype(np.float64) @ weight.T
    return float(np.square(rows @ rounded.T - expected).sum() / np.square(expected).sum())


if __name__ == "__main__":
    sys.exit(main())
