"""What can be done to a matrix: a method at a number of bits, and the values it leaves; knows one matrix at a time.

Engines have formats for few of these. To measure them all alike, a matrix is rounded, turned back into numbers, and
run at float16: what a format would cost in accuracy shows, before anybody writes a kernel for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import RecipeError
from engines.quantize.activations import Activations
from engines.quantize.formats.int4 import block_size_for, dequantize
from engines.quantize.formats.int8 import dequantize_int8, quantize_int8
from engines.quantize.formats.nf4 import dequantize_nf4, quantize_nf4
from engines.quantize.methods.awq import quantize_awq, quantize_clipped
from engines.quantize.methods.fold import Producers, divided
from engines.quantize.methods.gptq import quantize_gptq
from engines.quantize.methods.range_search import quantize_fitted
from engines.quantize.methods.rtn import quantize_rtn

Float32 = NDArray[np.float32]
Weight = NDArray[np.floating]


@dataclass(frozen=True)
class WeightQuantization:
    """A method at a number of bits, written as ``gptq4`` or, with blocks of another size than 128, ``gptq4/32``."""

    method: str
    bits: int
    block_size: int = 128

    @property
    def looks_at_inputs(self) -> bool:
        """Whether it depends on what the matrix receives, and not on its weights alone."""
        return self.method not in _BLIND

    def __str__(self) -> str:
        return f"{self.method}{self.bits}" + (f"/{self.block_size}" if self.block_size != 128 else "")


@dataclass(frozen=True)
class Problem:
    """A matrix (N, K), what it receives, and which rows of the matrix before make which of its channels."""

    weight: Weight
    activations: Activations | None = None  # an embedding has none, and is rounded by its weights alone
    producers: Producers | None = None
    is_scalable: bool = False  # whether what comes before can take a division of the channels


# The formats there are, then fewer bits, to find what breaks.
DEFAULT_QUANTIZATIONS = (
    WeightQuantization("rtn", 8),
    WeightQuantization("nf", 4),
    WeightQuantization("gptq", 4, 32),
    *(WeightQuantization(method, bits) for bits in (4, 3, 2) for method in ("rtn", "gptq", "awq")),
)


def quantization_from_text(text: str) -> WeightQuantization:
    """What ``str`` of a quantization wrote.

    Raises:
        RecipeError: there is no such quantization.
    """
    match = re.fullmatch(r"([a-z-]+)(\d)(?:/(\d+))?", text)
    quantization = WeightQuantization(match[1], int(match[2]), int(match[3] or 128)) if match else None
    if (
        quantization is None
        or quantization.method not in _METHODS
        or quantization.bits not in _BITS.get(quantization.method, _FEW)
    ):
        raise RecipeError(
            f"there is no quantization {text!r}; write a method ({', '.join(_METHODS)}) and its bits (nf4; rtn8; 2, 3 "
            "or 4 for the others), as gptq4 or gptq4/32"
        )
    if quantization.block_size not in (16, 32, 64, 128, 256):
        raise RecipeError(f"{text!r} has blocks of {quantization.block_size}; expected 16, 32, 64, 128 or 256")
    return quantization


def quantized(problem: Problem, quantization: WeightQuantization) -> Float32:
    """The values (N, K) that a matrix has after the quantization, as its own inputs meet them."""
    if problem.activations is None and quantization.looks_at_inputs:
        quantization = replace(quantization, method="fitted")
    return _METHODS[quantization.method](problem, quantization)


def _rtn(problem: Problem, quantization: WeightQuantization) -> Float32:
    if quantization.bits == 8:
        return dequantize_int8(quantize_int8(problem.weight))
    return dequantize(quantize_rtn(problem.weight, _block(problem, quantization), quantization.bits))


def _fitted(problem: Problem, quantization: WeightQuantization) -> Float32:
    return dequantize(quantize_fitted(problem.weight, _block(problem, quantization), bits=quantization.bits))


def _gptq(problem: Problem, quantization: WeightQuantization) -> Float32:
    assert problem.activations is not None
    block_size = _block(problem, quantization)
    return dequantize(quantize_gptq(problem.weight, block_size, problem.activations, quantization.bits).matrix)


def _awq(problem: Problem, quantization: WeightQuantization) -> Float32:
    scales, rounded = _scaled(problem, quantization)
    return rounded / scales


def _awq_gptq(problem: Problem, quantization: WeightQuantization) -> Float32:
    assert problem.activations is not None
    scales, _ = _scaled(problem, quantization)
    seen = divided(problem.activations, scales)
    found = quantize_gptq(problem.weight * scales, _block(problem, quantization), seen, quantization.bits)
    return dequantize(found.matrix) / scales


def _scaled(problem: Problem, quantization: WeightQuantization) -> tuple[Float32, Float32]:
    """AWQ's input scales, ones where none can be folded, and the rounded matrix that they are still to divide."""
    assert problem.activations is not None
    block_size, bits = _block(problem, quantization), quantization.bits
    if not problem.is_scalable:
        ones = np.ones(problem.weight.shape[1], np.float32)
        rounded = quantize_clipped(problem.weight, block_size, problem.activations, bits)
        return ones, dequantize(rounded.matrix)
    found = quantize_awq(problem.weight, block_size, problem.activations, problem.producers, bits)
    return found.input_scales, dequantize(found.calibrated.matrix)


def _block(problem: Problem, quantization: WeightQuantization) -> int:
    return block_size_for(problem.weight.shape[1], quantization.block_size)


_METHODS: Mapping[str, Callable[[Problem, WeightQuantization], Float32]] = {
    "rtn": _rtn,
    "fitted": _fitted,
    "gptq": _gptq,
    "awq": _awq,
    "awq-gptq": _awq_gptq,
    "nf": lambda problem, _: dequantize_nf4(quantize_nf4(problem.weight)),
}
_BLIND = ("rtn", "fitted", "nf")  # look at no activations
_FEW = (2, 3, 4)
_BITS = {"rtn": (2, 3, 4, 8), "nf": (4,)}
