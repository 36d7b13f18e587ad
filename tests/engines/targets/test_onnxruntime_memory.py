"""What a loaded graph holds: weights once, as the library packs them, and none of the pages that only loading reads."""

import os
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from engines.layers.lowering.onnxruntime import OnnxRuntimeLowering
from engines.layers.weights import Linear
from engines.onnx.builder import Graph
from engines.quantize.methods.rtn import quantize_rtn

ROWS = COLUMNS = 2048


def mapped_bytes(path):
    """Bytes of a file that lie in this process's memory."""
    return sum(mapping.rss for mapping in psutil.Process().memory_maps(grouped=False) if mapping.path == str(path))


def has_pages_of_a_disk(directory):
    """Whether files there can leave memory: those of a tmpfs are memory. A chroot may list no mount above them."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    above = [directory, *directory.parents]
    return next((mounts[str(path)] for path in above if str(path) in mounts), "a disk") not in ("tmpfs", "ramfs")


def test_scales_of_4_bits_are_not_kept_beside_the_packed_ones(tmp_path):
    directory = Path(os.path.realpath(tmp_path))
    if not has_pages_of_a_disk(directory):
        pytest.skip("temporary files are memory here, and stay in it")
    weight = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float16)
    path = directory / "product.onnx"
    with Graph(path) as graph:
        x = graph.input("x", "float32", (1, "T", COLUMNS))
        product = OnnxRuntimeLowering().linear(graph, x, Linear("product", quantize_rtn(weight, 32), None))
        graph.output("y", "float32", (1, "T", ROWS), product)
        graph.save()
    with Path(f"{path}.data").open("rb") as written:
        os.fsync(written.fileno())  # what the disk has not yet cannot leave memory

    engine = OnnxRuntimeBackend(threads=1).load(path)

    scales_bytes = ROWS * COLUMNS // 32 * 4
    assert mapped_bytes(f"{path}.data") < scales_bytes / 4
    rows = np.ones((1, 1, COLUMNS), np.float32)
    expected = weight.astype(np.float32).sum(axis=1)
    assert np.corrcoef(engine.evaluate({"x": rows})["y"][0, 0], expected)[0, 1] > 0.98
    engine.close()
