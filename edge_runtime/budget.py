"""The ledger of bytes: what a bundle will need, whether it is admitted, what it took; loads nothing itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil

from edge_runtime.bundle import COMPONENT_KINDS, Manifest
from edge_runtime.errors import BudgetExceededError
from edge_runtime.kv_cache import cache_bytes

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip

_ACTIVATION_ROWS = 24  # hidden states, qkv, context, gate, up and their products: about 24 widths alive at once
_FRAME_BYTES = 100_000_000  # an 8K frame, as bytes
_HOST_ITEMS = ("process", "embedding", "load_peak", "frame")  # the rest of a ledger is the inference engine's


@dataclass(frozen=True)
class _Footprint:
    """What a target's inference engine makes of stored bytes."""

    process_bytes: int  # before any weight
    resident_per_stored: Mapping[str, float]  # by precision
    load_peak_per_stored: float  # of the largest component, while it loads
    number_bytes: int  # of the cache's and the activations' numbers


# ONNX Runtime computes in float32 on a CPU: it widens float16 and repacks 4-bit weights. Measured on a decoder of
# 608 MB float16: 2.15, of 157 MB int4: 1.22; while one component loads, another 0.25 of it. Interpreter, numpy, OpenCV,
# tokenizer and the library took 93 MB on x86-64.
_ONNXRUNTIME = _Footprint(120_000_000, {"float16": 2.3, "int8": 1.3, "int4": 1.3, "nf4": 1.3}, 0.25, 4)
# An engine's weights go to the device as they are stored; its file is mapped until they are there. CUDA's context and
# TensorRT's libraries take 0.4 GiB before them.
_TENSORRT = _Footprint(550_000_000, {"float16": 1.0, "int8": 1.0, "int4": 1.0}, 1.0, 2)
_FOOTPRINTS = {"onnxruntime": _ONNXRUNTIME, "tensorrt": _TENSORRT, "tensorrt-rtx": _TENSORRT}


@dataclass(frozen=True)
class LedgerItem:
    """Bytes of one thing, as planned and, once it exists, as measured."""

    name: str
    planned_bytes: int
    measured_bytes: int | None = None


@dataclass(frozen=True)
class Ledger:
    """Itemised bytes against a budget."""

    items: tuple[LedgerItem, ...]
    budget_bytes: int | None = None

    @property
    def planned_bytes(self) -> int:
        """Sum of what was planned."""
        return sum(item.planned_bytes for item in self.items)

    @property
    def measured_bytes(self) -> int:
        """Sum of what was measured so far."""
        return sum(item.measured_bytes or 0 for item in self.items)

    def item(self, name: str) -> LedgerItem:
        """The item of that name."""
        [item] = (item for item in self.items if item.name == name)
        return item

    def with_measured(self, measured_bytes: Mapping[str, int]) -> Ledger:
        """A copy with measurements by item name; names that were not planned are added with a plan of 0."""
        items = [replace(i, measured_bytes=measured_bytes.get(i.name, i.measured_bytes)) for i in self.items]
        planned = {item.name for item in self.items}
        items += [LedgerItem(name, 0, size) for name, size in measured_bytes.items() if name not in planned]
        return replace(self, items=tuple(items))

    def table(self) -> str:
        """The items as aligned lines of text: name, planned, measured; then the total and the budget."""
        rows = [("", "planned", "measured")]
        rows += [(i.name, format_bytes(i.planned_bytes), _format_or_blank(i.measured_bytes)) for i in self.items]
        measured = self.measured_bytes if any(i.measured_bytes is not None for i in self.items) else None
        rows.append(("total", format_bytes(self.planned_bytes), _format_or_blank(measured)))
        if self.budget_bytes is not None:
            rows.append(("budget", format_bytes(self.budget_bytes), ""))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = (f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows)
        return "\n".join(lines)


def plan_ledger(manifest: Manifest, cache_tokens: int) -> Ledger:
    """What an inspector of this bundle with a cache of ``cache_tokens`` will hold at its peak, item by item."""
    footprint = _FOOTPRINTS[manifest.target]
    weights = dict.fromkeys(COMPONENT_KINDS, 0)
    for component in manifest.components:
        factor = 1.0 if component.kind == "embedding" else footprint.resident_per_stored[component.precision]
        weights[component.kind] += round(component.size_bytes * factor)
    largest = max(component.size_bytes for component in manifest.components if component.kind != "embedding")
    return Ledger(
        (
            LedgerItem("process", footprint.process_bytes),
            *(LedgerItem(kind, size_bytes) for kind, size_bytes in weights.items()),
            LedgerItem("kv_cache", cache_bytes(manifest.model, cache_tokens, footprint.number_bytes)),
            LedgerItem("activations", _activation_bytes(manifest, cache_tokens, footprint.number_bytes)),
            LedgerItem("load_peak", round(largest * footprint.load_peak_per_stored)),
            LedgerItem("frame", _FRAME_BYTES),
        )
    )


def device_bytes(admitted: Ledger) -> int:
    """What an admitted ledger leaves to the inference engine: weights, cache and activations."""
    host_bytes = sum(admitted.item(name).planned_bytes for name in _HOST_ITEMS)
    return (admitted.budget_bytes or 0) - host_bytes


def check_fits(ledger: Ledger, budget_bytes: int) -> Ledger:
    """Admit ``ledger`` to ``budget_bytes``; the admitted ledger carries the budget.

    Raises:
        BudgetExceededError: the plan is larger; the message holds the itemised ledger.
    """
    admitted = replace(ledger, budget_bytes=budget_bytes)
    if ledger.planned_bytes > budget_bytes:
        over = format_bytes(ledger.planned_bytes - budget_bytes)
        raise BudgetExceededError(
            f"the plan needs {format_bytes(ledger.planned_bytes)}, {over} more than the budget of "
            f"{format_bytes(budget_bytes)}; raise the budget, free memory, or build with a smaller recipe "
            f"(asymmetric-int4)\n{admitted.table()}"
        )
    return admitted


def parse_bytes(text: str | int) -> int:
    """Bytes of ``"11.4GB"`` (decimal units), ``"512MiB"`` (binary units), ``"4096"`` or an integer.

    Raises:
        ValueError: not a positive amount of bytes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", str(text), re.ASCII)
    unit = _UNITS.get(match[2].lower()) if match else None
    size_bytes = round(float(match[1]) * unit) if match and unit else 0
    if size_bytes < 1:
        raise ValueError(f"{text!r} is not an amount of memory; write for instance 2GB, 512MiB or 2000000000")
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """``size_bytes`` for people, in decimal units: ``"11.4 GB"``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(size_bytes) >= unit:
            return f"{size_bytes / unit:.2f} {name}"
    return f"{size_bytes} B"


def available_bytes() -> int:
    """Memory that can be had without swapping: MemAvailable, which counts reclaimable page cache."""
    return int(psutil.virtual_memory().available)


def _format_or_blank(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_bytes(size_bytes)


def _activation_bytes(manifest: Manifest, cache_tokens: int, number_bytes: int) -> int:
    """What lives between weights: rows of several widths and attention scores, of a prefill of the whole prompt.

    The scratch of a bundle's engines is asked of the engines themselves when they are built.
    """
    model = manifest.model
    rows = cache_tokens * model.hidden_size * _ACTIVATION_ROWS
    scores = model.num_heads * cache_tokens * cache_tokens
    return number_bytes * rows + 4 * (scores + model.vocab_size)
