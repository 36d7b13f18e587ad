"""Train the reference classifier: ``python -m engines.reference.train_classifier --out FILE``; six minutes of one core.

A ResNet (He et al. 2015) of 175 thousand parameters, at 96 x 96 pixels. It is exported as it was trained, BatchNorm
and all: folding that is the builder's work.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.bundle.manifest import PixelSpec
from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.vision.image_processors import squeeze
from engines.calibration.classifier import IMAGENET_MEAN, IMAGENET_STD
from engines.reference.training.classification import CLASSES, labelled_scenes

SIZE = 96
WIDTHS = (16, 32, 64)
BLOCKS = 2  # of each width
_SMOOTHING = 0.05
_BYTES = PixelSpec(SIZE, SIZE, 2, 1.0, (0.0,) * 3, (1.0,) * 3)  # as the builder will resize


class Block(nn.Module):  # type: ignore[misc]
    """Two convolutions around a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inner, outer, 3, stride)
        self.second = convolution(outer, outer, 3, 1)
        self.shortcut = convolution(inner, outer, 1, stride) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, H, W) -> (B, outer, H / stride, W / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def convolution(inner: int, outer: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer))


def resnet() -> nn.Sequential:
    """Pixels (B, 3, 96, 96) to logits (B, classes)."""
    layers: list[nn.Module] = [convolution(3, WIDTHS[0], 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inner = WIDTHS[0]
    for width in WIDTHS:
        for index in range(BLOCKS):
            layers.append(Block(inner, width, 2 if index == 0 and width > WIDTHS[0] else 1))
            inner = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, len(CLASSES)))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--scenes", type=int, default=10_000, help="(%(default)s; 27 KiB of memory each)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, classes = training_set(args.scenes)
    model = resnet().to(memory_format=torch.channels_last)
    steps = args.epochs * (len(images) // args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    for epoch in range(args.epochs):
        began, total, right = time.monotonic(), 0.0, 0
        order = torch.randperm(len(images))
        for indices in order.split(args.batch)[: len(images) // args.batch]:
            logits = model(augmented(images[indices]))
            loss = F.cross_entropy(logits, classes[indices], label_smoothing=_SMOOTHING)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item() * len(indices)
            right += int((logits.argmax(1) == classes[indices]).sum())
        seconds = time.monotonic() - began
        print(f"epoch {epoch}: loss {total / len(images):.4f}, right {right / len(images):.4f}, {seconds:.0f} s")
        sys.stdout.flush()
        export(model, args.out)
    return 0


def training_set(scenes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (scenes, 3, 96, 96), RGB, and classes (scenes,)."""
    images, classes = np.empty((scenes, 3, SIZE, SIZE), np.uint8), np.empty(scenes, np.int64)
    for index, (frame, label) in enumerate(labelled_scenes(range(scenes))):
        images[index], classes[index] = squeeze(frame, _BYTES)[0], label
    return torch.from_numpy(images), torch.from_numpy(classes)


def augmented(images: Tensor) -> Tensor:
    """Normalised pixels (B, 3, 96, 96); half of them mirrored, each at another exposure and contrast."""
    count = len(images)
    x = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images).float() / 255
    x = (x - 0.5) * (1 + 0.3 * (torch.rand(count, 1, 1, 1) - 0.5)) + 0.5 + 0.1 * (torch.rand(count, 3, 1, 1) - 0.5)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


def export(model: nn.Module, out: Path) -> None:
    """Write the model for one image, with its BatchNorm nodes."""
    model.eval()
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, SIZE, SIZE),),
        str(out),
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    model.train()


if __name__ == "__main__":
    sys.exit(exit_code("train_classifier", main))
