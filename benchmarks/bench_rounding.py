"""Our rounding beside public implementations: same weights, same calibration rows, same held-out rows, one run.

    pip install nvidia-modelopt llmcompressor onnxruntime torch transformers
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_rounding [--calibrate 16] [--held-out 300] [--out FILE]

Every matrix of the reference inspector's decoder is rounded (``rounding_methods.py`` has the ways): to symmetric INT4
in blocks of 128, by us, by ModelOpt's AWQ (``INT4_AWQ_CFG``) and llm-compressor's GPTQ (act-order ``weight``, damping
0.01); and to INT8 with its inputs, by us, by ``onnxruntime.quantization.quantize_static`` (a scale a channel) and in
the ranges of ModelOpt's ``HistogramCalibrator``. Rows are those that the model itself makes of rendered scenes, prompt
and true answer included.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from benchmarks.rounding_methods import METHODS, Rounded
from edge_runtime.reports.report import answer_from_findings
from edge_runtime.vision.image_processors import pixels_from_frame
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, render_scene

CHECKPOINT = Path(__file__).parents[1] / "engines" / "reference" / "checkpoint"
FIRST_CALIBRATION_SEED = 2_000_000_000
_ROWS_OF_SCENES = 10  # of the held-out ones: errors of outputs need fewer than perplexity does
_HEADING = """## Beside public implementations

The decoder's matrices, all methods on the same weights and the same rows of {calibrate} rendered scenes
(`benchmarks/bench_rounding.py`, one run, one thread): symmetric INT4 in blocks of 128; and INT8 with a scale an output
channel, and inputs in 8 bits too. ONNX Runtime's inputs have a *zero point* where that is said; TensorRT's INT8 has
none, nor has ours. *Output error* is that of the outputs over the outputs, squared, mean of all matrices: on rows of
scenes that were held out, and on those that were *seen*; *of a row*, held out too, is the mean of what each row has of
it. *Divergence* is in nats a token, how far the choice of the next one moves from float32's; *perplexity* is that of
true answers, with the standard error of its difference to float32's: both on {held_out} scenes that were held out, with
the whole decoder rounded. Memory is the peak beyond what the process held before."""
_COLUMNS = "output error, held out | of a row | seen | divergence | perplexity | CPU seconds | memory"
_BESIDE = """Ours beside theirs by the same method, on the same scenes: errors of outputs as ratios, and what is left of
divergence and perplexity when theirs are taken away, with the standard errors of these differences.

| | output error, held out | of a row | divergence | perplexity |
|---|---:|---:|---:|---:|"""
_WORDS = """\
Which percentile: the 99.999th has the smaller error of all outputs together, most of which is that of a few rows
with large outputs; the 99.99th has the smaller error of a row, and a third of the divergence. Perplexity does not tell
them apart. So ours is the 99.99th.

Entropy is the wrong method for a decoder, whoever computes it. `down_proj` has {share:.0%} of its error (of ours): a
few of its inputs are a thousand times the median, and entropy keeps the shape of the many and cuts off the few, on
which whole rows depend. ModelOpt's is NVIDIA's own account of TensorRT's method, which itself needs a GPU; ours is as
published (`engines/quantize/activation_ranges.py`). ONNX Runtime's tries one range, the largest magnitude, as it has no
more bins than levels (its issue 9597). For language NVIDIA recommends the largest magnitude too (Torch-TensorRT's
documentation). `asymmetric-int8` is by entropy, as that is what TensorRT does by itself; who is free to choose takes
`asymmetric-int8-percentile`."""
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """A scene with its true answer, as the decoder reads it."""

    embeddings: torch.Tensor  # (1, T, D)
    answer: list[int]


@dataclass(frozen=True)
class Judged:
    """What became of the answers, in nats: (questions,) each."""

    divergence: NDArray[np.float64]
    losses: NDArray[np.float64]


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
    def question(self, seed: int) -> Question:
        """The scene of a seed."""
        spec, prompt, scene = self._read.spec, self._read.prompt, render_scene(seed)
        answer = [*self._ids(answer_from_findings(scene.findings)), spec.eos_token_ids[0]]
        pixels = torch.tensor(pixels_from_frame(scene.image, self._read.image))
        [image] = self.model.get_image_features(pixel_values=pixels).pooler_output
        before = self._rows([spec.bos_token_id, *self._ids(prompt.before_image)])
        after = self._rows([*self._ids(prompt.after_image), *answer])
        return Question(torch.cat([before, image, after])[None], answer)

    @torch.no_grad()
    def log_probabilities(self, question: Question) -> Float32:
        """Of each next token, along the true answer: (tokens, vocabulary)."""
        hidden = self.model.model.language_model(inputs_embeds=question.embeddings).last_hidden_state
        logits = self.model.lm_head(hidden[0, -len(question.answer) - 1 : -1])
        return np.asarray(logits.log_softmax(-1).numpy())

    def rows(self, questions: Sequence[Question]) -> dict[str, Float32]:
        """What each matrix receives."""
        found: dict[str, list[Float32]] = {name: [] for name in self.linears}
        hooks = [
            module.register_forward_pre_hook(lambda _, x, kept=found[name]: kept.append(x[0][0].numpy().copy()))
            for name, module in self.linears.items()
        ]
        for question in questions:
            self.log_probabilities(question)
        for hook in hooks:
            hook.remove()
        return {name: np.concatenate(rows) for name, rows in found.items()}

    def judge(self, rounded: dict[str, Rounded], questions: Sequence[Question], truth: Sequence[Float32]) -> Judged:
        """The answers with every matrix rounded, beside those of float32."""
        kept = {name: module.weight.data for name, module in self.linears.items()}
        hooks = []
        for name, found in rounded.items():
            self.linears[name].weight.data = torch.tensor(found.weight)
            hooks.append(self.linears[name].register_forward_pre_hook(lambda _, x, f=found: (f.inputs(x[0]),)))
        ours = [self.log_probabilities(question) for question in questions]
        for hook in hooks:
            hook.remove()
        for name, weight in kept.items():
            self.linears[name].weight.data = weight
        divergence = [(np.exp(t) * (t - o)).sum(dtype=np.float64) for t, o in zip(truth, ours, strict=True)]
        return Judged(np.array(divergence), _losses(ours, questions))

    def _rows(self, ids: list[int]) -> torch.Tensor:
        rows: torch.Tensor = self.model.get_input_embeddings()(torch.tensor(ids))
        return rows

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--calibrate", type=int, default=16, help="scenes (%(default)s)")
    parser.add_argument("--held-out", type=int, default=300, help="scenes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/quantization-peers.md"), help="(%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject(args.checkpoint)
    calibration = [subject.question(FIRST_CALIBRATION_SEED + i) for i in range(args.calibrate)]
    questions = [subject.question(FIRST_HELD_OUT_SEED + i) for i in range(args.held_out)]
    seen, unseen = subject.rows(calibration), subject.rows(questions[:_ROWS_OF_SCENES])
    truth = [subject.log_probabilities(question) for question in questions]
    exact = Judged(np.zeros(len(questions)), _losses(truth, questions))
    tokens = np.array([len(question.answer) for question in questions])
    weights = {name: module.weight.detach().numpy().copy() for name, module in subject.linears.items()}
    lines = [_HEADING.format(**vars(args)), "", f"Perplexity at float32: {_perplexity(exact, tokens):.4f}."]
    errors: dict[str, dict[str, Errors]] = {}  # by method and matrix
    judged: dict[str, Judged] = {}
    for kind, methods in METHODS.items():
        lines += ["", f"| {kind} | {_COLUMNS} |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for method, round_matrix in methods.items():
            round_matrix(next(iter(weights.values())), next(iter(seen.values())))  # what is imported is not counted
            _forget_peak()
            started, before = time.process_time(), _memory_mb("VmRSS")
            rounded = {name: round_matrix(weight.copy(), seen[name]) for name, weight in weights.items()}
            spent, peak = time.process_time() - started, _memory_mb("VmHWM") - before
            errors[method] = {n: _errors(weights[n], rounded[n], unseen[n], seen[n]) for n in weights}
            judged[method] = subject.judge(rounded, questions, truth)
            cells = [f"{error:.2e}" for error in np.mean(list(errors[method].values()), axis=0)]
            cells += [f"{judged[method].divergence.sum() / tokens.sum():.5f}"]
            cells += [f"{_perplexity(judged[method], tokens):.4f} ± {_beside(judged[method], exact, tokens)[1][1]:.4f}"]
            lines.append(f"| {method} | {' | '.join(cells)} | {spent:.1f} | {peak:.0f} MB |")
            args.out.write_text("\n".join([*lines, ""]), encoding="utf-8")  # stdout is where the others chat
    lines += ["", _BESIDE]
    for ours, theirs in _pairs(list(judged)):
        means = [np.mean(list(errors[name].values()), axis=0) for name in (ours, theirs)]
        ratios = [f"{ratio:.2f}" for ratio in (means[0] / means[1])[:2]]
        (divergence, d), (perplexity, p) = _beside(judged[ours], judged[theirs], tokens)
        cells = [*ratios, f"{divergence:+.5f} ± {d:.5f}", f"{perplexity:+.4f} ± {p:.4f}"]
        lines.append(f"| {ours.removesuffix(', ours')}: {theirs.split(', ')[1]} | {' | '.join(cells)} |")
    held = {name: found.held_out for name, found in errors["entropy, ours"].items()}
    share = sum(error for name, error in held.items() if name.endswith("down_proj")) / sum(held.values())
    args.out.write_text("\n".join([*lines, "", _WORDS.format(share=share), ""]), encoding="utf-8")
    return 0


def _losses(found: Sequence[Float32], questions: Sequence[Question]) -> NDArray[np.float64]:
    """What the true answers cost, in nats: (questions,)."""
    pairs = zip(found, questions, strict=True)
    return np.array([-logs[np.arange(len(q.answer)), q.answer].sum(dtype=np.float64) for logs, q in pairs])


class Errors(NamedTuple):
    """Of a matrix' outputs: squared, over the outputs squared."""

    held_out: float
    of_a_row: float  # held out too
    seen: float


def _errors(weight: Float32, rounded: Rounded, held_out: Float32, seen: Float32) -> Errors:
    def squares(rows: Float32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        expected = rows.astype(np.float64) @ weight.T
        found = rounded.inputs(torch.tensor(rows)).numpy() @ rounded.weight.T
        return np.square(found - expected).sum(axis=1), np.square(expected).sum(axis=1)

    (error, norm), (own, own_norm) = squares(held_out), squares(seen)
    return Errors(error.sum() / norm.sum(), (error / norm).mean(), own.sum() / own_norm.sum())


def _perplexity(judged: Judged, tokens: NDArray[np.int64]) -> float:
    return float(np.exp(judged.losses.sum() / tokens.sum()))


def _beside(ours: Judged, theirs: Judged, tokens: NDArray[np.int64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Divergence a token and perplexity, ours without theirs, with the standard errors over scenes in pairs."""

    def doubt(change: NDArray[np.float64]) -> float:
        rest = change - change.sum() / tokens.sum() * tokens
        return float(np.std(rest) * np.sqrt(len(tokens)) / tokens.sum())

    divergence, losses = ours.divergence - theirs.divergence, ours.losses - theirs.losses
    level = _perplexity(ours, tokens)
    change = (level - _perplexity(theirs, tokens), level * doubt(losses))
    return (float(divergence.sum() / tokens.sum()), doubt(divergence)), change


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Ours, and everyone's by the same method on the same grid."""
    ours = [name for name in names if name.endswith(", ours")]
    methods = {name: name.removesuffix("ours") for name in ours}
    others = [name for name in names if name not in ours and "zero point" not in name]
    return [(one, other) for one in ours for other in others if other.startswith(methods[one])]


def _forget_peak() -> None:
    """Have the peak start again from what is in use; Linux with glibc."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1000


if __name__ == "__main__":
    sys.exit(main())
