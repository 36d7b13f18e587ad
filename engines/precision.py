"""Which precision each component gets, read from a recipe; knows names and numbers, touches no weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edge_runtime.bundle import COMPONENT_KINDS
from edge_runtime.errors import RecipeError
from engines.quantize import QUANTIZERS
from engines.quantize.rtn import SMALLEST_BLOCK, block_size_for, quantized_bytes

_RECIPES = Path(__file__).with_name("recipes")
_LARGEST_BLOCK = 1024
_LARGEST_RECIPE_BYTES = 1 << 16


@dataclass(frozen=True)
class Precision:
    """How one component's matrices are stored; norms, biases and positions always stay float16."""

    dtype: str  # float16 or int4
    method: str  # cast, or the quantizer's name
    block_size: int | None  # largest block of int4; a matrix whose width it doesn't divide gets a smaller one

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a (rows, columns) matrix as it is stored."""
        if self.block_size is None:
            return rows * columns * 2
        return quantized_bytes(rows, columns, block_size_for(columns, self.block_size))


@dataclass(frozen=True)
class PrecisionPlan:
    """A precision for every kind of component, and the recipe that gave it."""

    recipe: str
    sha256: str  # of the recipe's text
    components: Mapping[str, Precision]


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
    if not isinstance(components, dict) or set(components) != set(COMPONENT_KINDS):
        found = ", ".join(map(str, components)) if isinstance(components, dict) else "none"
        raise RecipeError(f"{path} names the components {found}; expected {', '.join(COMPONENT_KINDS)}")
    plan = {kind: _precision_from_yaml(f"{path}: {kind}", components[kind]) for kind in COMPONENT_KINDS}
    return PrecisionPlan(path.stem, hashlib.sha256(text.encode()).hexdigest(), plan)


def _precision_from_yaml(where: str, entry: Any) -> Precision:
    if entry == "float16":
        return Precision("float16", "cast", None)
    if not isinstance(entry, dict) or entry.get("dtype") != "int4" or set(entry) != {"dtype", "block_size", "method"}:
        raise RecipeError(f"{where} is {entry!r}; expected float16, or {{dtype: int4, block_size: 128, method: rtn}}")
    block_size, method = entry["block_size"], entry["method"]
    if type(block_size) is not int or block_size not in _block_sizes():
        raise RecipeError(
            f"{where} has block_size {block_size!r}; expected one of {', '.join(map(str, _block_sizes()))}"
        )
    if method not in QUANTIZERS:
        raise RecipeError(f"{where} has method {method!r}; expected one of {', '.join(QUANTIZERS)}")
    return Precision("int4", method, block_size)


def _block_sizes() -> tuple[int, ...]:
    return tuple(1 << n for n in range(SMALLEST_BLOCK.bit_length() - 1, _LARGEST_BLOCK.bit_length()))
