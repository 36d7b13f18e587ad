"""Train the reference inspector: ``python -m engines.reference.train vision|language --out DIR``; resumable.

Two stages on one CPU. *vision*: the vision encoder learns from labels on every patch (``training/vision_encoder.py``).
*language*: connector and decoder learn to write the answer, with the loss on the answer only (``language.py``). A stage
ends after ``--steps`` and goes on from its last state when started again; the rate falls over the last fifth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import CheckpointError
from engines.reference.training.language_model import AnswerLoss, model_config, save_checkpoint, train_tokenizer
from engines.reference.training.samples import GRID, Sample, sample_batches
from engines.reference.training.vision_encoder import DenseHeads, patch_features, pixels, vision_config

_LOSS_WEIGHTS = {
    "layers": 1.0,
    "boxes": 1.0,
    "severity": 0.3,
    "surface": 0.1,
    "direction": 0.2,
    "bars": 0.2,
    "position": 1.0,
}
_SETTLING = 0.2  # last part of a stage: the learning rate falls, and every patch is in
_SAVE_EVERY = 250
_SEEDS_PER_RUN = 10_000_000  # a resumed run goes on with seeds it has not seen


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(_STAGES))
    parser.add_argument("--out", type=Path, required=True, help="folder for the state, the log and the result")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--reuse", type=int, default=3, help="times that a rendered scene is shown")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=float, default=0.5, help="share of patches in, until the rate falls")
    parser.add_argument("--joint", action="store_true", help="language: train the vision encoder too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    _STAGES[args.stage](args)
    return 0


def train_vision(args: argparse.Namespace) -> None:
    """Stage one; writes ``vision.pt`` with the state."""
    torch.manual_seed(1)
    tower, heads = CLIPVisionModel(vision_config()), DenseHeads()
    model = nn.ModuleDict({"tower": tower, "heads": heads})
    features_of = torch.compile(partial(patch_features, tower))

    def losses(samples: list[Sample], settled: bool) -> dict[str, torch.Tensor]:
        count = GRID * GRID if settled else int(GRID * GRID * args.keep)
        kept = torch.rand(len(samples), GRID * GRID).argsort(1)[:, :count]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = features_of(pixels(samples), kept)
        return heads.loss(features.float(), samples, kept)

    run(model, losses, args, args.out / "vision.pt", _LOSS_WEIGHTS)


def train_language(args: argparse.Namespace) -> None:
    """Stage two; reads ``vision.pt``, writes ``language.pt`` and, at every save, the Hugging Face checkpoint."""
    torch.manual_seed(2)
    if not (args.out / "vision.pt").exists():
        raise CheckpointError(f"{args.out} holds no vision.pt; train the vision stage first, with the same --out")
    tokenizer_path = args.out / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer().save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    model = LlavaForConditionalGeneration(model_config(tokenizer.get_vocab_size()))
    encoder = torch.load(args.out / "vision.pt", weights_only=True)["model"]
    tower = {name.removeprefix("tower."): value for name, value in encoder.items() if name.startswith("tower.")}
    model.model.vision_tower.load_state_dict(tower)
    model.model.vision_tower.requires_grad_(args.joint)
    losses = AnswerLoss(model, tokenizer, args.joint, args.keep)
    after_save = partial(save_checkpoint, model, tokenizer, args.out / "checkpoint")
    run(model, losses, args, args.out / "language.pt", {"answer": 1.0}, after_save)


def run(
    model: nn.Module,
    losses: Callable[[list[Sample], bool], dict[str, torch.Tensor]],
    args: argparse.Namespace,
    state_path: Path,
    weights: dict[str, float],
    after_save: Callable[[], object] = lambda: None,
) -> None:
    """The loop both stages share: batches, Muon for matrices and AdamW for the rest, log, saved state."""
    optimizers = make_optimizers(model, args.lr)
    step, runs = 0, 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, runs = state["step"], state["runs"] + 1
        print(f"resumed at step {step}", file=sys.stderr)

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "step": step,
            "runs": runs,
        }
        unfinished = state_path.with_suffix(".partial")
        torch.save(state, unfinished)
        unfinished.replace(state_path)

    log = (args.out / f"{state_path.stem}.jsonl").open("a")
    began, sums = time.monotonic(), dict.fromkeys(weights, 0.0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for samples in sample_batches(runs * _SEEDS_PER_RUN, args.batch, args.workers, args.reuse):
        left = (args.steps - step) / (_SETTLING * args.steps)
        rate = args.lr * min((step + 1) / 200, 1.0, max(left, 0.01))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        parts = losses(samples, step > (1 - _SETTLING) * args.steps)
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        for name, value in parts.items():
            sums[name] += value.item()
        if step % 50 == 0:
            speed = 50 * args.batch / (time.monotonic() - began)
            line = {"step": step, "lr": rate, "images_per_s": round(speed, 1)}
            line |= {name: round(value / 50, 4) for name, value in sums.items()}
            print(json.dumps(line), file=log, flush=True)
            began, sums = time.monotonic(), dict.fromkeys(weights, 0.0)
        if step % _SAVE_EVERY == 0 or step >= args.steps:
            save()
            after_save()
        if step >= args.steps:
            return


def make_optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside layers, AdamW for embeddings, heads, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inner = parameter.ndim == 2 and "layers." in name
            (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


_STAGES = {"vision": train_vision, "language": train_language}


if __name__ == "__main__":
    sys.exit(exit_code("train", main))
