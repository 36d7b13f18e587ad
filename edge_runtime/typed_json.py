"""Parsed JSON into frozen dataclasses, field by field, by their annotations; knows no particular document."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


class MismatchError(ValueError):
    """A field is missing or of another type than its annotation; the message says which."""


def dataclass_from_json(document: Any, kind: type[T]) -> T:
    """``document`` (dicts, lists, numbers, strings) as the dataclass ``kind``; unknown keys are ignored.

    Fields that have a default may be missing.

    Understands nested dataclasses, ``tuple``, ``Mapping``, ``X | None``, ``int``, ``float``, ``str``, ``Literal`` and
    ``Any``; of several dataclasses, the one whose ``kind`` is the document's.

    Raises:
        MismatchError: the document has another form.
    """
    return typing.cast(T, _decode(document, kind, ""))


def _decode(value: Any, expected: Any, where: str) -> Any:
    origin, options = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if is_dataclass(expected) and isinstance(value, dict):
        return _decode_fields(value, expected, where)
    if origin is types.UnionType and isinstance(value, dict) and all(map(is_dataclass, options)):
        return _decode_tagged(value, options, where)
    if origin is typing.Literal and type(value) is str and value in options:
        return value
    if origin is types.UnionType:
        for option in options:
            with suppress(MismatchError):
                return _decode(value, option, where)
    elif origin is tuple and isinstance(value, list):
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            return tuple(_decode(value[i], kinds[i], f"{where}[{i}]") for i in range(len(value)))
    elif origin is Mapping and isinstance(value, dict):
        return {key: _decode(item, options[1], f"{where}.{key}") for key, item in value.items()}
    elif expected is types.NoneType and value is None:
        return None
    elif expected is float and type(value) in (int, float) and abs(value) < 1e30:  # refuses NaN and infinity too
        return float(value)
    elif expected in (int, str) and type(value) is expected:  # not isinstance: True is no size
        return value
    name = expected.__name__ if isinstance(expected, type) and origin is None else expected
    raise MismatchError(f"{where or 'the document'} is {str(value)[:60]!r}, expected {name}")


def _decode_tagged(value: Mapping[str, Any], options: tuple[Any, ...], where: str) -> Any:
    """The dataclass among ``options`` whose field ``kind`` says what ``value`` says."""
    by_kind = {kind: option for option in options for kind in typing.get_args(_field_types(option)["kind"])}
    if value.get("kind") not in by_kind:
        raise MismatchError(f"{where}.kind is {str(value.get('kind'))[:60]!r}, expected {' or '.join(sorted(by_kind))}")
    return _decode(value, by_kind[value["kind"]], where)


def _decode_fields(value: Mapping[str, Any], expected: Any, where: str) -> Any:
    hints = _field_types(expected)
    if missing := [field.name for field in fields(expected) if field.default is MISSING and field.name not in value]:
        raise MismatchError(f"{where or 'the document'} lacks {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    present = {name: hint for name, hint in hints.items() if name in value}
    return expected(**{name: _decode(value[name], hint, prefix + name) for name, hint in present.items()})


@lru_cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
