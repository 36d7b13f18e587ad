"""What the real bindings offer, by version: the committed ``tensorrt_names.json`` and questions to it.

Made anew with ``python -m tests.conformance.table`` where the bindings can be downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance.bindings import RTX, VERSIONS, extract_names

TABLE = Path(__file__).with_name("tensorrt_names.json")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function."""

    name: str
    is_optional: bool
    is_variadic: bool


@dataclass(frozen=True)
class Signature:
    """One overload: its parameters, ``self`` left out, and the name of what it returns."""

    parameters: tuple[Parameter, ...]
    returns: str

    def accepts(self, positional: int, keywords: Sequence[str]) -> bool:
        """Whether a call with so many positional arguments and these keywords binds."""
        plain = [p for p in self.parameters if not p.is_variadic]
        takes_more = len(plain) < len(self.parameters)
        if positional > len(plain) and not takes_more:
            return False
        named = {p.name for p in plain[positional:]}
        required = {p.name for p in plain[positional:] if not p.is_optional}
        return required <= set(keywords) and (takes_more or set(keywords) <= named)


@dataclass(frozen=True)
class Names:
    """The API of one version. An entry has ``bases`` (a class), ``call`` (signatures) or ``is`` (a value's type)."""

    version: str
    entries: Mapping[str, Mapping[str, Any]]

    def is_class(self, name: str) -> bool:
        """Whether there is such a class."""
        return "bases" in self.entries.get(name, {})

    def member(self, owner: str, name: str) -> tuple[str, Mapping[str, Any]] | None:
        """Full name and entry of a class's member, its bases' included; with ``owner`` "", of the module's."""
        if not owner:
            return (name, self.entries[name]) if name in self.entries else None
        for holder in (owner, *self.entries[owner]["bases"]):
            if (path := f"{holder}.{name}") in self.entries:
                return path, self.entries[path]
        return None

    def signatures(self, name: str) -> tuple[Signature, ...]:
        """The overloads of a function, method, or of a class's constructor."""
        entry = self.entries.get(f"{name}.__init__" if self.is_class(name) else name, {})
        return tuple(_parse(text) for text in entry.get("call", ()))


@cache
def load_table() -> Mapping[str, Names]:
    """Names by version, from the committed table."""
    document = json.loads(TABLE.read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = {version: {} for version in document["versions"]}
    for name, by_versions in document["names"].items():
        for versions, entry in by_versions.items():
            for version in entries if versions == "*" else versions.split():
                entries[version][name] = entry
    return {version: Names(version, names) for version, names in entries.items()}


def merge(names_by_version: Mapping[str, Mapping[str, Any]]) -> str:
    """The table's text: a line a name, with what it is in which versions (``*``: in all)."""
    lines = []
    for name in sorted(set().union(*names_by_version.values())):
        versions_by_entry: dict[str, list[str]] = {}
        for version, names in names_by_version.items():
            if name in names:
                versions_by_entry.setdefault(json.dumps(names[name]), []).append(version)
        entry = {
            "*" if len(versions) == len(names_by_version) else " ".join(versions): json.loads(text)
            for text, versions in versions_by_entry.items()
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    return f'{{"versions": {json.dumps([*names_by_version])}, "names": {{\n' + ",\n".join(lines) + "\n}}\n"


def _parse(text: str) -> Signature:
    inside, _, returns = text.rpartition(" -> ") if " -> " in text else (text, "", "None")
    inside = inside.strip().removeprefix("(").removesuffix(")")
    parameters = []
    for part in _split(inside):
        name = part.partition(":")[0].partition("=")[0].strip()
        if name != "/":
            parameters.append(Parameter(name.lstrip("*"), "=" in part, name.startswith("*")))
    return Signature(tuple(parameters), returns.removeprefix("Optional[").removesuffix(" | None").removesuffix("]"))


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


if __name__ == "__main__":
    TABLE.write_text(merge({version: extract_names(version) for version in (*VERSIONS, RTX)}), encoding="utf-8")
    print(f"{TABLE}: {TABLE.stat().st_size} bytes")
