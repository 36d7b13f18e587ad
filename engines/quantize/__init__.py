"""Weight quantizers, by the method's name in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import Int4Matrix
from engines.quantize.methods.awq import quantize_clipped, quantize_clipped_or_gptq
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.methods.range_search import quantize_fitted
from engines.quantize.methods.row_selection import Calibrated
from engines.quantize.methods.rtn import quantize_rtn


@dataclass(frozen=True)
class CalibratedMethod:
    """A method that looks at the inputs which a matrix receives."""

    scales_inputs: bool  # AWQ's: channels are scaled where what comes before can take the division
    round: Callable[[NDArray[Any], int, Activations], Calibrated]  # by weight, block size and inputs


QUANTIZERS: Mapping[str, Callable[[NDArray[Any], int], Int4Matrix]] = {"rtn": quantize_rtn, "fitted": quantize_fitted}
CALIBRATED: Mapping[str, CalibratedMethod] = {
    "gptq": CalibratedMethod(False, quantize_gptq),
    "awq": CalibratedMethod(True, quantize_clipped),
    "awq-gptq": CalibratedMethod(True, quantize_clipped_or_gptq),
}
