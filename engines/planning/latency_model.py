"""How fast a planned bundle ought to run on a device, by what it must read and compute; measures nothing.

Writing a token reads every weight of the decoder and the head, and the cache so far: bandwidth decides. Seeing an image
and reading a prompt use each weight for many rows: arithmetic decides.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import asdict, dataclass

from engines.planning.devices import Device
from engines.planning.plan import BundlePlan

REPORT_TOKENS = 100  # of an answer with two findings, that the model has to choose
_TEXT_TOKENS = 32  # behind the image: the end of the prompt, and what opens every answer


@dataclass(frozen=True)
class Prediction:
    """Seconds that the steps of one report ought to take, if nothing else runs."""

    vision_s: float
    prefill_s: float
    token_s: float
    report_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Of writing an answer."""
        return 1 / self.token_s

    @property
    def report_s(self) -> float:
        """From a frame to its report."""
        return self.vision_s + self.prefill_s + self.report_tokens * self.token_s

    def __str__(self) -> str:
        return (
            "predicted from bandwidth and arithmetic, not measured:\n"
            f"  {self.tokens_per_s:.3g} tokens/s, {self.report_s:.3g} s for a report of {self.report_tokens} tokens "
            f"({self.vision_s:.2g} s to see, {self.prefill_s:.2g} s to read the prompt)"
        )

    def as_json(self) -> dict[str, float]:
        """The same for machines."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s, "report_s": self.report_s}


def predict(plan: BundlePlan, device: Device) -> Prediction:
    """Predict the time of a report of ``REPORT_TOKENS`` tokens, at the rates that the device is known to reach."""
    model, vision = plan.model.spec, plan.model.vision
    rows = plan.model.image.max_tokens + _TEXT_TOKENS
    attention = 4 * rows**2 * model.num_heads * model.head_dim * model.num_layers
    cached = plan.memory_plan.item("kv_cache").planned_bytes * (rows + REPORT_TOKENS / 2) / plan.context_tokens
    read = sum(plan.memory_plan.item(kind).planned_bytes for kind in ("decoder", "lm_head")) + cached
    return Prediction(
        vision_s=_compute_s(plan, device, {"vision_encoder", "connector"}, vision.rows, vision.attention_operations),
        prefill_s=_compute_s(plan, device, {"decoder"}, rows, attention),
        token_s=read / (device.read_bytes_per_s * device.read_share),
        report_tokens=REPORT_TOKENS,
    )


def _compute_s(plan: BundlePlan, device: Device, kinds: Set[str], rows: int, attention_operations: int) -> float:
    """Seconds for the components of ``kinds`` to take ``rows`` rows; attention is computed like float16."""
    seconds = attention_operations / device.operations_per_s["float16"]
    for part, component in zip(plan.parts, plan.manifest.components, strict=True):
        if part.role in kinds:
            numbers = sum(math.prod(p.shape) for p in part.parameters.values() if p.is_matrix)
            seconds += 2 * rows * numbers / device.operations_per_s[component.precision]
    return seconds / device.operations_share
