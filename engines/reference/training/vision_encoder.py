"""Stage one of training: the vision encoder learns to see, from labels on every patch.

Image-level labels do not teach a small ViT cracks; labels a patch do. Heads that are thrown away afterwards read, from
each patch's features, everything a report will need: the layer, and for a defect its box, severity, and facts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from edge_runtime.reports.report import DEFECT_CLASSES, SEVERITIES
from engines.reference.renderer.distractors import DISTRACTORS
from engines.reference.renderer.surfaces import SURFACES
from engines.reference.training.samples import COVERED, GRID, IMAGE_PX, UNCOVERED, Sample

WIDTH = 256
LAYERS = 6
CLASSES = len(DEFECT_CLASSES)
_PLANES = CLASSES + len(DISTRACTORS)
_COVERED = torch.tensor(COVERED)
_FEWEST_CRACKED = 4  # patches that a crack somewhere among them crosses
_SOMEWHERE_WEIGHT = 0.5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config() -> CLIPVisionConfig:
    """A CLIP ViT: 6 layers, 256 wide, 16-pixel patches of a 256-pixel image."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        image_size=IMAGE_PX,
        patch_size=IMAGE_PX // GRID,
        hidden_act="quick_gelu",
        attn_implementation="eager",  # compiled, 1.6 times as fast to train on a CPU as the fused kernel
    )


def pixels(samples: Sequence[Sample]) -> Tensor:
    """Normalised pixel values, (B, 3, 256, 256)."""
    return normalized(np.stack([sample.image for sample in samples]))


def normalized(pictures: NDArray[np.uint8]) -> Tensor:
    """Pixel values, (B, 3, 256, 256), of pictures (B, 256, 256, 3) in RGB."""
    images = torch.from_numpy(pictures).float() / 255
    return ((images - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def patch_features(tower: CLIPVisionModel, images: Tensor, kept: Tensor | None = None) -> Tensor:
    """What the connector is given: the last encoder layer, class token dropped; (B, 256, 256).

    ``kept``, (B, P), leaves only those patches in: twice the images a second, and each of them teaches as much
    (FLIP, Li et al. 2023).
    """
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    if kept is not None:
        hidden = torch.cat([hidden[:, :1], at_patches(hidden[:, 1:], kept)], 1)
    return tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]


def at_patches(values: Tensor, kept: Tensor) -> Tensor:
    """(B, 256, N) -> (B, P, N), the rows that ``kept`` names."""
    return values.gather(1, kept[..., None].expand(-1, -1, values.shape[-1]))


class DenseHeads(nn.Module):  # type: ignore[misc]
    """Linear readings of every patch, and the loss on them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.sizes = [_PLANES, CLASSES * 4, CLASSES * len(SEVERITIES), len(SURFACES), 3, 2, 2]
        self.read = nn.Linear(WIDTH, sum(self.sizes))
        nn.init.constant_(self.read.bias[:_PLANES], -2.0)

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, P, WIDTH) -> layer logits, boxes, severities, surface, direction, bars, position."""
        return list(self.read(self.norm(features)).float().split(self.sizes, -1))

    def loss(self, features: Tensor, samples: Sequence[Sample], kept: Tensor) -> dict[str, Tensor]:
        """Named losses, each a scalar; ``kept``, (B, P): the patches that ``features``, (B, P, WIDTH), are of."""
        planes, boxes, severities, surface, direction, bars, position = self(features)
        batch, patches = planes.shape[:2]
        coverage = torch.from_numpy(np.stack([s.coverage for s in samples])).float().flatten(1, 2) / 255
        coverage = at_patches(coverage, kept)
        shown = coverage >= _COVERED
        weight = (shown | (coverage < UNCOVERED)).float() * torch.where(shown, 2.0, 1.0)
        weight = weight * at_patches(_known(samples, coverage.shape[-1]), kept)
        losses = {"layers": _focal(planes, shown.float(), weight)}
        if any(sample.somewhere is not None for sample in samples):
            losses["layers"] = losses["layers"] + _somewhere(planes[..., 0], samples, kept)

        levels = torch.from_numpy(np.stack([s.severity for s in samples]))[:, None].expand(-1, patches, -1)
        inside = shown[..., :CLASSES] & (levels >= 0)  # (B, P, K)
        truth = torch.from_numpy(np.stack([s.boxes for s in samples]))[:, None].expand(-1, patches, -1, -1)
        guess = boxes.view(batch, patches, CLASSES, 4).sigmoid()
        # a crack that crosses the frame has many patches, a spot of rust two: every finding counts the same
        share = inside / inside.sum(1, keepdim=True).clamp(min=1)
        findings = inside.any(1).sum().clamp(min=1)
        losses["boxes"] = ((guess - truth).abs().sum(-1) * share).sum() / findings

        logits = severities.view(batch, patches, CLASSES, len(SEVERITIES))
        each = F.cross_entropy(logits.flatten(0, 2), levels.flatten().clamp(min=0), reduction="none").view_as(share)
        losses["severity"] = (each * share).sum() / findings

        losses["surface"] = _everywhere(surface, [s.surface for s in samples])
        losses["direction"] = _on_patches(direction, [s.direction for s in samples], inside[..., 0])
        losses["bars"] = _on_patches(bars, [s.bars for s in samples], inside[..., 3])
        axis = (torch.arange(GRID) + 0.5) / GRID
        where = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, -1, 2).expand(batch, -1, -1)
        losses["position"] = (position.sigmoid() - at_patches(where, kept)).abs().mean()
        return losses


def _focal(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = (truth - logits.sigmoid()).abs()
    return (each * wrong.pow(1.0) * weight).sum() / weight.sum() * 20


def _known(samples: Sequence[Sample], layers: int) -> Tensor:
    """1 where a patch's coverage is known, (B, 256, layers)."""
    everything = np.ones((GRID, GRID, layers), bool)
    known = [everything if sample.known is None else sample.known for sample in samples]
    return torch.from_numpy(np.stack(known)).flatten(1, 2).float()


def _somewhere(cracks: Tensor, samples: Sequence[Sample], kept: Tensor) -> Tensor:
    """What is missing to a crack in the patches of which one or more show it; ``cracks``, (B, P), are logits."""
    nowhere = np.zeros((GRID, GRID), bool)
    stacked = np.stack([nowhere if sample.somewhere is None else sample.somewhere for sample in samples])
    among = at_patches(torch.from_numpy(stacked).flatten(1)[..., None], kept)[..., 0]
    highest = cracks.masked_fill(~among, -1e4).topk(_FEWEST_CRACKED, 1).values
    open_question = among.sum(1) >= _FEWEST_CRACKED
    missing = F.softplus(-highest).mean(1)
    return _SOMEWHERE_WEIGHT * (missing * open_question).sum() / len(samples)


def _everywhere(logits: Tensor, labels: list[int]) -> Tensor:
    target = torch.tensor(labels)[:, None].expand(-1, logits.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def _on_patches(logits: Tensor, labels: list[int], inside: Tensor) -> Tensor:
    target = torch.where(inside, torch.tensor(labels)[:, None], -1)
    each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum")
    return each / (target >= 0).sum().clamp(min=1)
