"""Builds of the tiny model, and a checkpoint that watches them; tests nothing."""

import numpy as np

from engines.build import build
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe


class WatchedCheckpoint:
    """The tiny checkpoint; notes which tensors are read, and is interrupted or damaged at one of them."""

    def __init__(self, interrupt_at: str = "", damage: str = "") -> None:
        self._tiny = open_checkpoint("synthetic:tiny-llava")
        self._interrupt_at = interrupt_at
        self._damage = damage
        self.read: list[str] = []

    def __getattr__(self, name):
        return getattr(self._tiny, name)

    def __contains__(self, name):
        return name in self._tiny

    def __iter__(self):
        return iter(self._tiny)

    def tensor(self, name):
        if name == self._interrupt_at:
            raise KeyboardInterrupt
        self.read.append(name)
        tensor = self._tiny.tensor(name)
        return np.full_like(tensor, np.nan) if name == self._damage else tensor


LATE = "language_model.model.layers.3.mlp.up_proj.weight"


def build_tiny(out, checkpoint=None, recipe="asymmetric-int4", **options):
    return build(checkpoint or WatchedCheckpoint(), load_recipe(recipe), "onnxruntime", out, **options)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "bundle.json"}
