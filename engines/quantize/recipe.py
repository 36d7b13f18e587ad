"""Which precision each component gets, read from a recipe; knows names and numbers, touches no weight."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml

from edge_runtime.bundle.manifest import ROLES
from edge_runtime.errors import RecipeError
from engines.onnx.tensors import PRODUCTS
from engines.quantize import CALIBRATED, QUANTIZERS
from engines.quantize.activation_ranges import RANGE_METHODS
from engines.quantize.formats.int8 import int8_bytes
from engines.quantize.formats.nf4 import nf4_bytes
from engines.quantize.methods.rtn import SMALLEST_BLOCK, block_size_for, quantized_bytes

_RECIPES = Path(__file__).parents[1] / "recipes"
_LARGEST_BLOCK = 1024
_LARGEST_RECIPE_BYTES = 1 << 16

_BYTES: Mapping[str, Callable[[int, int], int]] = {
    "float16": lambda rows, columns: 2 * rows * columns,
    "int8": int8_bytes,
    "nf4": nf4_bytes,
}
_TABLE_EXPECTED = "expected float16, or int4 by rtn or fitted"
# INT8's methods are one that finds ranges, and what is done beforehand: smooth-twin-percentile.
_SMOOTH, _TWIN = "smooth", "twin"
_INT8_METHODS = tuple(
    "-".join([*before, ranges]) for before in ((), (_SMOOTH,), (_TWIN,), (_SMOOTH, _TWIN)) for ranges in RANGE_METHODS
)

COMPUTED = "computed"  # keys and values are kept as they are computed: float32 on a CPU, float16 by TensorRT
KV_CACHES = (COMPUTED, "int8")

_T = TypeVar("_T", str, int)


@dataclass(frozen=True)
class Precision:
    """How one component's matrices are stored; norms, biases and positions always stay float16."""

    dtype: str  # float16, int8, int4 or nf4
    method: str  # cast; rtn; int4's quantizer; or how int8 finds the ranges of activations
    block_size: int | None  # largest block of int4; a matrix whose width it doesn't divide gets a smaller one
    exceptions: tuple[tuple[str, Precision], ...] = ()  # by a pattern of matrices' names; the first that fits counts
    is_stored: bool = False  # the checkpoint has it in int4 already, by another tool's method, and so it stays
    has_zeros: bool = False  # with zero points

    def of(self, matrix: str) -> Precision:
        """The precision of one matrix, by its name in an engine: those that read the same input are one there."""
        return next((p for pattern, p in self.exceptions if fnmatchcase(matrix, pattern)), self)

    def of_products(self, name: str) -> Precision:
        """The precision of attention's own products: float16, unless a pattern that ends with that word says more."""
        said = (p for pattern, p in self.exceptions if pattern.endswith(PRODUCTS) and fnmatchcase(name, pattern))
        return next(said, FLOAT16)

    @property
    def int8(self) -> Precision | None:
        """What it has in 8 bits, all of that the same way; None where that is nothing."""
        return next((p for p in self.every if p.dtype == "int8"), None)

    @property
    def every(self) -> tuple[Precision, ...]:
        """It, and those of its exceptions."""
        return self, *(precision for _, precision in self.exceptions)

    @property
    def range_method(self) -> str:
        """How INT8 finds the ranges of activations."""
        return self.method.rpartition("-")[2]

    @property
    def is_smoothed(self) -> bool:
        """Whether INT8 moves outlier channels of activations into the weights."""
        return _SMOOTH in self.method.split("-")

    @property
    def has_twin_ranges(self) -> bool:
        """Whether INT8 rounds the two peaks behind a GELU or a softmax by scales of their own."""
        return _TWIN in self.method.split("-")

    @property
    def looks_at_inputs(self) -> bool:
        """Whether weights follow what calibration images do with them."""
        return not self.is_stored and (self.method in CALIBRATED or self.is_smoothed)

    def without_int8(self) -> Precision:
        """The same with float16 for INT8, methods kept: at what a graph is emitted that an engine makes INT8 itself."""
        own = replace(self, dtype="float16") if self.dtype == "int8" else self
        return replace(own, exceptions=tuple((pattern, p.without_int8()) for pattern, p in self.exceptions))

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a (rows, columns) matrix as it is stored."""
        if self.block_size is not None:
            block_size = block_size_for(columns, self.block_size)
            return quantized_bytes(rows, columns, block_size, has_zeros=self.has_zeros)
        return _BYTES[self.dtype](rows, columns)


FLOAT16 = Precision("float16", "cast", None)
NF4 = Precision("nf4", "rtn", None)


@dataclass(frozen=True)
class PrecisionPlan:
    """A precision for every kind of component, and the recipe that gave it."""

    recipe: str
    sha256: str  # of the recipe's text
    components: Mapping[str, Precision]
    retention: float | None = None  # the least share of float16's macro-F1 that has to remain
    kv_cache: str = COMPUTED  # how keys and values are kept

    @property
    def has_int8(self) -> bool:
        """Whether ranges of activations, or of keys and values, are to be found on calibration images."""
        return self.kv_cache == "int8" or any(precision.int8 for precision in self.components.values())

    @property
    def is_calibrated(self) -> bool:
        """Whether weights follow what calibration images do with them."""
        return any(precision.looks_at_inputs for precision in self.every)

    @property
    def every(self) -> tuple[Precision, ...]:
        """All precisions in it, those of exceptions too."""
        return tuple(precision for component in self.components.values() for precision in component.every)


def known_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the builder."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))


def load_recipe(recipe: str) -> PrecisionPlan:
    """The plan of a recipe that comes with the builder, or of a YAML file.

    Raises:
        RecipeError: there is no such recipe, or it does not say a possible precision for every component.
    """
    path = _RECIPES / f"{recipe}.yaml" if recipe in known_recipes() else Path(recipe)
    try:
        if path.stat().st_size > _LARGEST_RECIPE_BYTES:
            raise RecipeError(f"{path} is no recipe: it is larger than {_LARGEST_RECIPE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"there is no recipe {recipe!r} ({error}); use one of {', '.join(known_recipes())}, or a YAML file's path"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    components = document.get("components") if isinstance(document, dict) else None
    if not isinstance(components, dict) or set(components) != set(ROLES):
        found = ", ".join(map(str, components)) if isinstance(components, dict) else "none"
        raise RecipeError(f"{path} names the components {found}; expected {', '.join(ROLES)}")
    plan = {kind: _precision_from_yaml(f"{path}: {kind}", kind, components[kind]) for kind in ROLES}
    retention = document.get("retention")
    if retention is not None and not (isinstance(retention, float) and 0 < retention <= 1):
        raise RecipeError(f"{path} has retention {retention!r}; expected the share of macro-F1 to be kept, as 0.99")
    kv_cache = _one_of(f"{path}", "kv_cache", document.get("kv_cache", COMPUTED), KV_CACHES)
    return PrecisionPlan(path.stem, hashlib.sha256(text.encode()).hexdigest(), plan, retention, kv_cache)


def _precision_from_yaml(where: str, kind: str, entry: Any) -> Precision:
    if entry in ("float16", "nf4"):
        entry = {"dtype": entry}
    fields = dict(entry) if isinstance(entry, dict) else {}
    exceptions = fields.pop("except", {})
    dtype, is_table = fields.get("dtype"), kind == "embedding"
    if is_table and (dtype in ("int8", "nf4") or exceptions):
        raise RecipeError(f"{where} is {entry!r}; an embedding is one table that no product reads: {_TABLE_EXPECTED}")
    if not isinstance(exceptions, dict):
        raise RecipeError(f"{where} has except: {exceptions!r}; expected precisions by pattern")
    if dtype in ("float16", "nf4") and set(fields) == {"dtype"}:
        precision = NF4 if dtype == "nf4" else FLOAT16
    elif dtype == "int8" and set(fields) == {"dtype", "method"}:
        precision = Precision("int8", _one_of(where, "method", fields["method"], _INT8_METHODS), None)
    elif dtype == "int4" and set(fields) == {"dtype", "block_size", "method"}:
        block_size = _one_of(where, "block_size", fields["block_size"], _block_sizes())
        methods = tuple(QUANTIZERS) if is_table else (*QUANTIZERS, *CALIBRATED)
        precision = Precision("int4", _one_of(where, "method", fields["method"], methods), block_size)
    else:
        raise RecipeError(
            f"{where} is {entry!r}; expected float16, nf4, {{dtype: int8, method: entropy}}, or "
            "{dtype: int4, block_size: 128, method: rtn}"
        )
    precision = replace(precision, exceptions=tuple(_exceptions(where, kind, exceptions)))
    ways = {p.method for p in (precision, *(p for _, p in precision.exceptions)) if p.dtype == "int8"}
    if len(ways) > 1:
        raise RecipeError(f"{where} has int8 by {' and '.join(sorted(ways))}; expected one method in a component")
    return precision


def _exceptions(where: str, kind: str, entries: Mapping[Any, Any]) -> Iterator[tuple[str, Precision]]:
    for pattern, entry in entries.items():
        precision = _precision_from_yaml(f"{where}: {pattern}", kind, entry)
        if precision.exceptions:
            raise RecipeError(f"{where}: {pattern} is {entry!r}; an exception has none")
        if str(pattern).endswith(PRODUCTS) and (kind != "vision_encoder" or precision.dtype not in ("float16", "int8")):
            raise RecipeError(
                f"{where}: {pattern} is {entry!r}; what attention multiplies is no weight: "
                "expected float16 or int8, in the vision encoder alone"
            )
        yield str(pattern), precision


def _one_of(where: str, field: str, value: Any, choices: tuple[_T, ...]) -> _T:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise RecipeError(f"{where} has {field} {value!r}; expected one of {', '.join(map(str, choices))}")


def _block_sizes() -> tuple[int, ...]:
    return tuple(1 << n for n in range(SMALLEST_BLOCK.bit_length() - 1, _LARGEST_BLOCK.bit_length()))
