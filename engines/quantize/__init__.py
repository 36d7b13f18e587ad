"""Weight quantizers, by the method's name in a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from engines.quantize.rtn import Int4Matrix, quantize_rtn

QUANTIZERS: Mapping[str, Callable[[NDArray[Any], int], Int4Matrix]] = {"rtn": quantize_rtn}
