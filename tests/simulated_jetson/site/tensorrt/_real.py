"""Holds the double to NVIDIA's bindings: names, signatures and enums of one version, and no others.

``SIMULATED_TENSORRT`` names the version, 10.3.0 where it is not set. The table of names was read from the real bindings
(``tests/conformance``), so code that runs on the double calls nothing that TensorRT does not have.
"""

from __future__ import annotations

import enum
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tests.conformance.table import Names, load_table

VERSION = os.environ.get("SIMULATED_TENSORRT", "10.3.0")
NUMBER = VERSION.removeprefix("rtx-")
NAMES: Names = load_table()[VERSION]
_ANY_VERSION = frozenset().union(*(names.entries for names in load_table().values()))

C = TypeVar("C", bound=type)


def real(double: C) -> C:
    """Decorates a class of the double: what this version lacks is taken away, what is left checks how it is called."""
    owner = double.__name__
    if not NAMES.is_class(owner):
        return double  # not of this version, which does not show it
    bases = NAMES.entries[owner]["bases"]
    for name, value in list(vars(double).items()):
        if name.startswith("_") and name != "__init__":
            continue
        found = NAMES.member(owner, name)
        if found is None:
            if not any(f"{holder}.{name}" in _ANY_VERSION for holder in (owner, *bases)):
                raise TypeError(f"no TensorRT has {owner}.{name}: the double made it up")
            delattr(double, name)
        elif isinstance(value, property):
            if found[1].get("read_only") and value.fset:
                raise TypeError(f"{owner}.{name} cannot be set in TensorRT {VERSION}")
        elif callable(value):
            path = owner if name == "__init__" else found[0]
            setattr(double, name, _checked(value, path))
    double.__setattr__ = _refusing_strangers(double)  # type: ignore[assignment]
    return double


def function(double: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function of the module."""
    return _checked(double, double.__name__)


def _checked(double: Callable[..., Any], path: str) -> Callable[..., Any]:
    signatures = NAMES.signatures(path)
    is_method = "." in path or NAMES.is_class(path)

    @functools.wraps(double)
    def call(*arguments: Any, **keywords: Any) -> Any:
        positional = len(arguments) - is_method
        if signatures and not any(signature.accepts(positional, [*keywords]) for signature in signatures):
            raise TypeError(
                f"{path}(): incompatible function arguments: {positional} by position and {[*keywords]} by name; "
                f"TensorRT {VERSION} has {NAMES.entries.get(path, {}).get('call')}"
            )
        return double(*arguments, **keywords)

    return call


def _refusing_strangers(double: type) -> Callable[[Any, str, Any], None]:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        if type(self) is double and not name.startswith("_") and NAMES.member(double.__name__, name) is None:
            raise AttributeError(f"{double.__name__!r} object has no attribute {name!r} in TensorRT {VERSION}")
        object.__setattr__(self, name, value)

    return set_attribute


class RealEnum(enum.Enum):
    """An enum as pybind11 makes them: converts to int, and is none."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


def real_enums() -> dict[str, type[RealEnum]]:
    """Every enum of this version. Numbers are this double's own, as TensorRT's differ between versions."""
    members: dict[str, list[str]] = {}
    for path, entry in NAMES.entries.items():
        owner, _, name = path.rpartition(".")
        if owner and entry.get("is") == owner:
            members.setdefault(owner, []).append(name)
    return {
        owner: RealEnum(owner.rpartition(".")[2], {name: number for number, name in enumerate(names)})
        for owner, names in members.items()
    }  # type: ignore[misc]


ENUMS = real_enums()
