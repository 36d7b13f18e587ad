"""```transformers``` on torch in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.peers.measure import Peer
from benchmarks.peers.torch_llama import TorchPeer


def open_peer(files: Path, model: str, layers: int | None, threads: int) -> Peer:
    """Nothing is read of ``files``."""
    return TorchPeer(model, layers, threads, torch.bfloat16)
