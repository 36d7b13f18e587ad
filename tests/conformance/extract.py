"""Print the names of an importable module of bindings as JSON; runs in a process of its own, knows no test.

A class gives its bases, a function the signatures that pybind11 wrote into its documentation, anything else its type.
Enum values are left out on purpose: they were renumbered in TensorRT 11, and the product must not depend on them.
"""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+(\(.*\)(?: -> .*)?)$")
_SELF = re.compile(r"^\((?:self: [\w.]+(?:, |(?=\))))?")
_SPELLINGS = {  # of the same types, by the pybind11 that built the bindings and the Python that runs them
    r"tensorrt_bindings\.tensorrt\.|tensorrt_rtx_bindings\.tensorrt_rtx\.": "",
    r"typing\.|typing_extensions\.|collections\.abc\.|\btypes\.|\w+::": "",
    r"SupportsInt|SupportsIndex": "int",
    r"SupportsFloat": "float",
    r"\bList\b|\blist\b": "Sequence",
    r"\bbuffer\b": "Buffer",
    r"<([\w.]+): -?\d+>": r"\1",
}


def names_of(owner: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every public name below a module or class, with what is known of it."""
    for name, value in vars(owner).items():
        path = prefix + name
        if (name.startswith("_") and name != "__init__") or isinstance(value, ModuleType):
            continue
        if isinstance(value, type):
            yield path, {"bases": [base.__qualname__ for base in value.__mro__[1:] if _is_tensorrts(base)]}
            yield from names_of(value, f"{path}.")
        elif name in getattr(owner, "__members__", {}):
            yield path, {"is": owner.__qualname__}
        elif hasattr(value, "fget"):  # a property, or pybind11's static kind
            yield path, {"is": _returned_by(value.fget), **({} if value.fset else {"read_only": True})}
        elif callable(value) or isinstance(value, (staticmethod, classmethod)):
            yield path, {"call": _signatures(getattr(owner, name))}
        else:
            yield path, {"is": type(value).__qualname__}


def _signatures(function: Any) -> list[str]:
    if isinstance(function, FunctionType):  # of the bindings' own Python
        return [str(inspect.signature(function))]
    lines = (function.__doc__ or "").splitlines()
    found = [match[1] for line in lines if (match := _SIGNATURE.match(line))]
    is_overloaded = any("Overloaded function." in line for line in lines[:3])
    return [_SELF.sub("(", _spelled(text), count=1) for text in (found[1:] if is_overloaded else found[:1])]


def _returned_by(getter: Any) -> str:
    if getter is None:  # of what can only be set; None has a documentation of its own from Python 3.13 on
        return ""
    lines = (getattr(getter, "__doc__", None) or "").strip().splitlines()
    return _spelled(lines[0].rpartition(" -> ")[2]) if lines else ""


def _spelled(text: str) -> str:
    for pattern, spelling in _SPELLINGS.items():
        text = re.sub(pattern, spelling, text)
    return text


def _is_tensorrts(base: type) -> bool:
    return base.__module__.startswith("tensorrt_")


if __name__ == "__main__":
    trt = importlib.import_module(sys.argv[1])
    json.dump({"version": trt.__version__, "names": dict(names_of(trt))}, sys.stdout)
