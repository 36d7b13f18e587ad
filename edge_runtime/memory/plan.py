"""The memory plan: what a bundle will need, whether it is admitted, what it took; loads nothing itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.bundle.manifest import ROLES, Component, Manifest, NativeImage, TiledImage, embedding_rows
from edge_runtime.errors import BudgetExceededError
from edge_runtime.language.kv_cache import cache_bytes, cache_dtype
from edge_runtime.language.positions import table_bytes
from edge_runtime.memory.footprint import FOOTPRINTS, Footprint

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip

_WIDTHS = 24  # of a step's rows are alive at once: hidden states, qkv, context, gate, up and their products
_ENCODER_WIDTHS = 36  # of an image's rows: ViT-L/14 at 336 took 84 MB
# Where the vision encoder's attention is written out in INT8: a number for each two rows and head, of CLIP's 64 wide.
# By the same ViT-L, 56 MB more with one scale for a softmax's output, and 135 MB with two.
_ENCODER_SCORES, _HEAD_WIDTH = 7, 64
_FRAME_BYTES = 80_000_000  # of 4K: 54 MB to decode one and to make pixels of it, and another one waits
_HOST_ITEMS = ("process", "embedding", "load_peak", "frame")  # the rest of a memory plan is the inference engine's
_LOAD_ORDER = ("vision_encoder", "connector", "lm_head", "decoder")  # what takes most to load comes while there is room
_MAPPED_PER_ROW = 1 << 16  # a page that is touched brings its neighbours in: fault_around_bytes, proc(5)


@dataclass(frozen=True)
class MemoryPlanItem:
    """Bytes of one thing, as planned and, once it exists, as measured."""

    name: str
    planned_bytes: int
    measured_bytes: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Itemised bytes against a budget."""

    items: tuple[MemoryPlanItem, ...]
    budget_bytes: int | None = None

    @property
    def planned_bytes(self) -> int:
        """Sum of what was planned."""
        return sum(item.planned_bytes for item in self.items)

    @property
    def measured_bytes(self) -> int:
        """Sum of what was measured so far."""
        return sum(item.measured_bytes or 0 for item in self.items)

    def item(self, name: str) -> MemoryPlanItem:
        """The item of that name."""
        [item] = (item for item in self.items if item.name == name)
        return item

    def with_measured(self, measured_bytes: Mapping[str, int]) -> MemoryPlan:
        """A copy with measurements by item name; names that were not planned are added with a plan of 0."""
        items = [replace(i, measured_bytes=measured_bytes.get(i.name, i.measured_bytes)) for i in self.items]
        planned = {item.name for item in self.items}
        items += [MemoryPlanItem(name, 0, size) for name, size in measured_bytes.items() if name not in planned]
        return replace(self, items=tuple(items))

    def table(self) -> str:
        """The items as aligned lines of text: name, planned, what was measured; then total and budget."""
        rows = [("", "planned", "measured")]
        rows += [(i.name, format_bytes(i.planned_bytes), _format_or_blank(i.measured_bytes)) for i in self.items]
        measured = self.measured_bytes if any(i.measured_bytes is not None for i in self.items) else None
        rows.append(("total", format_bytes(self.planned_bytes), _format_or_blank(measured)))
        if self.budget_bytes is not None:
            rows.append(("budget", format_bytes(self.budget_bytes), ""))
        if measured is None:
            rows = [(name, planned, "") for name, planned, _ in rows]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = (f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows)
        return "\n".join(lines)


def plan_memory(manifest: Manifest, cache_tokens: int, beside_bytes: int = 0) -> MemoryPlan:
    """What an inspector of this bundle with a cache of ``cache_tokens`` will hold at its peak, item by item.

    ``beside_bytes`` are what its process holds for something else.
    """
    model, footprint = manifest.model, FOOTPRINTS[manifest.target]
    weights = dict.fromkeys(ROLES, 0)
    for component in manifest.components:
        weights[component.role] += _resident_bytes(component, footprint, cache_tokens)
    working = {
        "kv_cache": cache_bytes(model, cache_tokens, np.dtype(cache_dtype(manifest)).itemsize),
        "positions": table_bytes(manifest.positions.rotary, cache_tokens),
        "image_tokens": _rows(manifest, cache_tokens, footprint) * model.hidden_size * footprint.number_bytes,
        "activations": _activation_bytes(manifest, cache_tokens, footprint),
        "frame": _FRAME_BYTES,
    }
    load_peak = _load_peak_bytes(manifest, footprint, sum(working.values()))
    items = {"process": footprint.process_bytes + beside_bytes, **weights, **working, "load_peak": load_peak}
    return MemoryPlan(tuple(MemoryPlanItem(name, size_bytes) for name, size_bytes in items.items()))


def loading_bytes(manifest: Manifest, component: Component) -> int:
    """What a component takes at its most while it is loaded."""
    footprint = FOOTPRINTS[manifest.target]
    return _resident_bytes(component, footprint, 0) + _scaled_bytes(component, footprint.load_per_stored)


def device_bytes(admitted: MemoryPlan) -> int:
    """What an admitted memory plan leaves to the inference engine: weights, cache and activations."""
    host_bytes = sum(admitted.item(name).planned_bytes for name in _HOST_ITEMS)
    return (admitted.budget_bytes or 0) - host_bytes


def frame_bytes(memory_plan: MemoryPlan) -> int:
    """What a frame may take while it is decoded: what is planned for it, and what the budget leaves beside the plan."""
    left_bytes = max((memory_plan.budget_bytes or 0) - memory_plan.planned_bytes, 0)
    return left_bytes + sum(item.planned_bytes for item in memory_plan.items if item.name == "frame")


def check_fits(memory_plan: MemoryPlan, budget_bytes: int) -> MemoryPlan:
    """Admit ``memory_plan`` to ``budget_bytes``; the admitted memory plan carries the budget.

    Raises:
        BudgetExceededError: the plan is larger; the message holds the itemised memory plan.
    """
    admitted = replace(memory_plan, budget_bytes=budget_bytes)
    if memory_plan.planned_bytes > budget_bytes:
        over = format_bytes(memory_plan.planned_bytes - budget_bytes)
        raise BudgetExceededError(
            f"the plan needs {format_bytes(memory_plan.planned_bytes)}, {over} more than the budget of "
            f"{format_bytes(budget_bytes)}; raise the budget, free memory, or build a smaller bundle: "
            f"edge-engines plan CHECKPOINT --budget ... says what would fit\n{admitted.table()}"
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


def _format_or_blank(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_bytes(size_bytes)


def _resident_bytes(component: Component, footprint: Footprint, cache_tokens: int) -> int:
    if component.role == "embedding":
        return mapped_bytes(component.size_bytes, cache_tokens)
    return _scaled_bytes(component, footprint.resident_per_stored)


def mapped_bytes(size_bytes: int, rows: int) -> int:
    """What stays of an embedding that is mapped, and of which only ``rows`` are read."""
    return min(size_bytes, rows * _MAPPED_PER_ROW)


def _scaled_bytes(component: Component, factors: Mapping[str, float]) -> int:
    """The component's bytes, each multiplied by the factor of the precision that it is stored in."""
    wide_bytes = component.float16_bytes
    return round((component.size_bytes - wide_bytes) * factors[component.precision] + wide_bytes * factors["float16"])


def _load_peak_bytes(manifest: Manifest, footprint: Footprint, working_bytes: int) -> int:
    """By how much loading exceeds what is held later: what comes and goes with a component, less what is to come."""
    peak, to_come = 0, working_bytes
    for role in reversed(_LOAD_ORDER):
        for component in (c for c in manifest.components if c.role == role):
            peak = max(peak, _scaled_bytes(component, footprint.load_per_stored) - to_come)
            to_come += _resident_bytes(component, footprint, 0)
    return peak


def _rows(manifest: Manifest, cache_tokens: int, footprint: Footprint) -> int:
    """Rows that components pass on: the image's and the prompt's, as often as they join hidden states again; those of a
    step between two groups, and of tiles."""
    image = manifest.image
    tiles = image.max_tensors * embedding_rows(image) if isinstance(image, TiledImage) else 0
    between = min(len(manifest.decoder_groups) - 1, 2) * _step_rows(manifest, cache_tokens, footprint)
    return tiles + (1 + len(manifest.deepstack)) * cache_tokens + between


def _step_rows(manifest: Manifest, cache_tokens: int, footprint: Footprint) -> int:
    return min(footprint.step_rows or manifest.step_tokens, cache_tokens)


def _activation_bytes(manifest: Manifest, cache_tokens: int, footprint: Footprint) -> int:
    """Scratch of the longest step, which all engines share: rows of several widths, and scores.

    What TensorRT's engines really want is asked of themselves when they are built.
    """
    model = manifest.model
    rows = _step_rows(manifest, cache_tokens, footprint)
    decoding = _WIDTHS * rows * model.hidden_size * footprint.number_bytes + 4 * model.num_heads * rows * cache_tokens
    encoder = manifest.component("vision_encoder")
    image = manifest.image
    patches = image.max_tensors if isinstance(image, NativeImage) else 1  # where they are as many as a frame takes
    seen = [spec.shape for spec in encoder.outputs if spec.name == "features"]
    features = [[n if isinstance(n, int) else patches for n in shape] for shape in seen]  # (1, P, Dv)
    seeing = sum(_ENCODER_WIDTHS * math.prod(shape) for shape in features)
    if encoder.products:
        seeing += sum(
            _ENCODER_SCORES * rows * math.prod(shape) // _HEAD_WIDTH for shape in features for rows in shape[1:2]
        )
    pixels = 4 * 3 * image.pixels.height * image.pixels.width * image.max_tensors
    resized = image.resized_bytes if isinstance(image, TiledImage) else 0
    return max(decoding, seeing * footprint.number_bytes) + pixels + resized + 4 * model.vocab_size
