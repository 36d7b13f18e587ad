"""Train the reference inspector: ``python -m engines.reference.train vision|language --out DIR``; resumable.

Two stages on one CPU. *vision*: the vision encoder learns from labels on every patch (``training/vision_encoder.py``).
*language*: connector and decoder learn to write the answer, with the loss on the answer only
(``training/language_model.py``). A stage ends after ``--steps`` and goes on from its last state when started again; the
rate falls over the last fifth.

The shipped checkpoint learned from the scenes of ``scenes.py``. ``--look lifelike`` trains on scenes that measure like
photographs among them, and ``--photos PATH`` mixes in the photographs of a list such as ``train.txt``, which are also
what some scenes are painted on; *language* takes those of them whose labels say what an answer opens with.
``--start CHECKPOINT`` goes on from the weights of a checkpoint. ``dense_scores`` measures what *vision* learned.
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
from edge_runtime.errors import CheckpointError, UsageError
from engines.reference.photographs import Photograph, load_photographs
from engines.reference.training.language_model import AnswerLoss, model_config, save_checkpoint, train_tokenizer
from engines.reference.training.photo_samples import Mixture, has_answer, mixture
from engines.reference.training.samples import GRID, Sample, render_sample, sample_batches
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
    parser.add_argument("--look", choices=("shipped", "lifelike"), default="shipped", help="of scenes (%(default)s)")
    parser.add_argument("--photos", type=Path, metavar="PATH", help="a list of photographs to train on too")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="weights to begin with; without: random ones")
    parser.add_argument("--minutes", type=float, help="end after so long, or after --steps, whichever comes first")
    args = parser.parse_args()
    if args.photos and args.look == "shipped":
        raise UsageError("--photos are mixed with lifelike scenes; give --look lifelike too")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    _STAGES[args.stage](args)
    return 0


def train_vision(args: argparse.Namespace) -> None:
    """Stage one; writes ``vision.pt`` with the state."""
    torch.manual_seed(1)
    tower, heads = CLIPVisionModel(vision_config()), DenseHeads()
    if args.start:
        tower.load_state_dict(LlavaForConditionalGeneration.from_pretrained(args.start).model.vision_tower.state_dict())
    model = nn.ModuleDict({"tower": tower, "heads": heads})
    features_of = torch.compile(partial(patch_features, tower))

    def losses(samples: list[Sample], settled: bool) -> dict[str, torch.Tensor]:
        count = GRID * GRID if settled else int(GRID * GRID * args.keep)
        kept = torch.rand(len(samples), GRID * GRID).argsort(1)[:, :count]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = features_of(pixels(samples), kept)
        return heads.loss(features.float(), samples, kept)

    run(model, losses, args, args.out / "vision.pt", _LOSS_WEIGHTS, _sampler(args, load_photographs))


def _sampler(args: argparse.Namespace, load: Callable[[Path], list[Photograph]]) -> Callable[[int], Sample]:
    """What makes a sample of a seed, as the options say."""
    if args.look == "shipped":
        return render_sample
    return mixture(load(args.photos)) if args.photos else Mixture()


def _with_answers(path: Path) -> list[Photograph]:
    return [photo for photo in load_photographs(path) if has_answer(photo)]


def train_language(args: argparse.Namespace) -> None:
    """Stage two; reads ``vision.pt``, writes ``language.pt`` and, at every save, the Hugging Face checkpoint."""
    torch.manual_seed(2)
    if not (args.out / "vision.pt").exists():
        raise CheckpointError(f"{args.out} holds no vision.pt; train the vision stage first, with the same --out")
    tokenizer_path = args.out / "tokenizer.json"
    if not tokenizer_path.exists():
        known = Tokenizer.from_file(str(args.start / "tokenizer.json")) if args.start else train_tokenizer()
        known.save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    model = LlavaForConditionalGeneration(model_config(tokenizer.get_vocab_size()))
    if args.start:
        model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(args.start).state_dict())
    encoder = torch.load(args.out / "vision.pt", weights_only=True)["model"]
    tower = {name.removeprefix("tower."): value for name, value in encoder.items() if name.startswith("tower.")}
    model.model.vision_tower.load_state_dict(tower)
    model.model.vision_tower.requires_grad_(args.joint)
    losses = AnswerLoss(model, tokenizer, args.joint, args.keep)
    after_save = partial(save_checkpoint, model, tokenizer, args.out / "checkpoint")
    sample_of = _sampler(args, _with_answers)
    run(model, losses, args, args.out / "language.pt", {"answer": 1.0}, sample_of, after_save)


def run(
    model: nn.Module,
    losses: Callable[[list[Sample], bool], dict[str, torch.Tensor]],
    args: argparse.Namespace,
    state_path: Path,
    weights: dict[str, float],
    sample_of: Callable[[int], Sample],
    after_save: Callable[[], object] = lambda: None,
) -> None:
    """The loop both stages share: batches, Muon for matrices and AdamW for the rest, log, saved state."""
    optimizers = make_optimizers(model, args.lr)
    step, runs, minutes_before = 0, 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, runs, minutes_before = state["step"], state["runs"] + 1, state.get("minutes", 0.0)
        print(f"resumed at step {step}", file=sys.stderr)

    def minutes() -> float:
        return minutes_before + (time.monotonic() - started) / 60

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "step": step,
            "runs": runs,
            "minutes": minutes(),
        }
        unfinished = state_path.with_suffix(".partial")
        torch.save(state, unfinished)
        unfinished.replace(state_path)

    log = (args.out / f"{state_path.stem}.jsonl").open("a")
    started = began = time.monotonic()
    sums = dict.fromkeys(weights, 0.0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    first_seed = runs * _SEEDS_PER_RUN
    for samples in sample_batches(first_seed, args.batch, args.workers, args.reuse, sample_of=sample_of):
        done = max(step / args.steps, minutes() / args.minutes if args.minutes else 0.0)
        rate = args.lr * min((step + 1) / 200, 1.0, max((1 - done) / _SETTLING, 0.01))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        parts = losses(samples, done > 1 - _SETTLING)
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
        ends = step >= args.steps or (args.minutes is not None and minutes() >= args.minutes)
        if step % _SAVE_EVERY == 0 or ends:
            save()
            after_save()
        if ends:
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
