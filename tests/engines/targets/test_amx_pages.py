"""Weights on huge pages: what moves there, what stays, and where the system has none."""

import mmap
import os
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_runtime.backends.amx import settle
from tests.engines.targets.amx_products import needs_amx

PAGE = mmap.PAGESIZE
SIZE = 32 << 20
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def file(tmp_path):
    path = Path(os.path.realpath(tmp_path / "weights"))
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def mapped(path):
    with path.open("rb") as opened:
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ), np.uint8)


def bytes_of_file(path):
    return sum(mapping.rss for mapping in psutil.Process().memory_maps(grouped=False) if mapping.path == str(path))


def on_huge_pages():
    """Bytes of this process that are not a file's and lie on huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:"))


@needs_amx
@pytest.mark.skipif(not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="no huge pages here")
def test_what_settles_keeps_its_address_and_numbers_and_lies_on_huge_pages(file):
    weights, before = mapped(file), on_huge_pages()
    assert settle(weights.ctypes.data + 3 * PAGE, SIZE - 8 * PAGE)
    assert weights.tobytes() == file.read_bytes()
    assert bytes_of_file(file) <= 8 * PAGE + (1 << 21)  # what did not settle, and what the system reads beside it
    assert on_huge_pages() - before > SIZE / 2


@needs_amx
def test_little_memory_stays_where_it_is(file):
    weights = mapped(file)
    assert not settle(weights.ctypes.data, 100 * PAGE)
    assert weights.tobytes() == file.read_bytes()
    assert bytes_of_file(file) >= 100 * PAGE


@needs_amx
@pytest.mark.parametrize("says", ["always madvise [never]\n", None])
def test_without_huge_pages_memory_stays_its_file_s(says, file, tmp_path):
    switch = tmp_path / "enabled"
    if says:
        switch.write_text(says)
    weights = mapped(file)
    assert not settle(weights.ctypes.data, SIZE, switch)
    assert weights.tobytes() == file.read_bytes()
    assert bytes_of_file(file) == SIZE
