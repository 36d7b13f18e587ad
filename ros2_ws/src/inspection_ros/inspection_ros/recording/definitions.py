"""What defines a type of message: its .msg file and those of every type in it, from where ROS installed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

_SEPARATOR = "=" * 80


def definition_of(type_name: str, text_of: Callable[[str], str] | None = None) -> str:
    """The definition of ``package/msg/Name`` as MCAP wants it: its own, then one section a type that it needs.

    ``text_of`` gives a type's .msg text; without it, the installed file is read.
    """
    read = text_of or _installed_text
    texts = {type_name: read(type_name)}
    waiting = [type_name]
    while waiting:
        name = waiting.pop()
        for needed in _types_in(texts[name], name.partition("/")[0]):
            if needed not in texts:
                texts[needed] = read(needed)
                waiting.append(needed)
    first, *others = texts.items()
    return first[1] + "".join(f"\n{_SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{text}" for name, text in others)


def _types_in(text: str, package: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        bare = words[0].partition("[")[0].partition("<")[0]
        owner, _, name = bare.rpartition("/")
        if name[0].isupper():  # primitive types are lower-case
            yield f"{owner or package}/msg/{name}"


def _installed_text(type_name: str) -> str:
    package, _, name = type_name.split("/")
    return (Path(get_package_share_directory(package)) / "msg" / f"{name}.msg").read_text(encoding="utf-8")
