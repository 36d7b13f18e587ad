"""What a node is started with beside what it knows: refused, with the name that was meant; knows no node's parameters.

rclpy passes over parameters that a node does not declare, so that a misspelt budget would be no budget, and over those
of a node of another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from rclpy.node import Node

from edge_runtime.errors import UsageError

_QOS = "qos_overrides."
# What rclpy reads of them, and the values that it takes.
_POLICIES: dict[str, tuple[str, ...]] = {
    "reliability": ("reliable", "best_effort", "system_default"),
    "history": ("keep_last", "keep_all", "system_default"),
    "depth": (),
}
_QOS_NAME = re.compile(r"qos_overrides\.(/.+)\.(subscription|publisher)(_\w+)?\.(\w+)")


def is_overridden(node: Node, name: str) -> bool:
    """Whether the node was started with a value for the parameter."""
    return name in _overrides(node)


def check_overrides(node: Node) -> None:
    """Raise UsageError where the node was started with a parameter that it does not have, or with nonsense for QoS.

    To be called when the node has declared all of its parameters; those of QoS are declared with their topics.
    """
    known = [name for name in node._parameters if not name.startswith(_QOS)]
    for name, override in _overrides(node).items():
        if override.value is None:  # an empty list in a file, say
            raise UsageError(f"{name} is given no value; give it one, or leave it out")
        if name.startswith(_QOS):
            _check_qos(name, override.value)
        elif name not in known:
            raise UsageError(f"there is no parameter {name!r}{_meant(name, known)}; correct it, or leave it out")


def check_node_names(node: Node, arguments: Sequence[str]) -> None:
    """Raise UsageError where ``arguments`` give parameters, by a file or one by one, and none of them to this node."""
    name = node.get_fully_qualified_name()
    for flag, value in _ros_arguments(arguments):
        if flag == "--params-file":
            given = sorted(set(_nodes_in(yaml.safe_load(Path(value).read_text(encoding="utf-8")) or {})))
        else:  # of all nodes, unless one is named
            prefix, colon, _ = value.partition(":=")[0].partition(":")
            given = [prefix] if colon else ["/**"]
        if not any(_is_meant(pattern, name) for pattern in given):
            raise UsageError(
                f"{flag} {value} has parameters of {', '.join(given) or 'no node'}, and none of {name}, as this node "
                f"is called; name it so, or /** for any node"
            )


def _ros_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every flag that gives parameters, as it is called in full, and its value."""
    is_ros = False
    for argument, value in zip(arguments, (*arguments[1:], ""), strict=True):
        if argument in ("--ros-args", "--"):
            is_ros = argument == "--ros-args"
        elif is_ros and argument == "--params-file":
            yield argument, value
        elif is_ros and argument in ("-p", "--param"):
            yield "--param", value


def _nodes_in(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """The names of nodes in a file of parameters, with their namespaces, which may be parted by slashes or nested."""
    for key, value in tree.items():
        if key == "ros__parameters":
            yield path
        elif isinstance(value, dict):
            yield from _nodes_in(value, f"{path}/{str(key).strip('/')}")


def _is_meant(pattern: str, name: str) -> bool:
    """Whether rcl takes ``pattern`` for the node ``name``: ``/*`` is one name, ``/**`` any number of them."""
    words = (re.escape(word) if "*" not in word else word for word in pattern.strip("/").split("/"))
    names = {"*": r"/\w+", "**": r"(/\w+)*"}
    return re.fullmatch("".join(names.get(word, f"/{word}") for word in words), name) is not None


def check_qos_overrides(node: Node) -> None:
    """Raise UsageError where an override of QoS is of a topic that the node does not have; when it has all of them."""
    known = [name for name in node._parameters if name.startswith(_QOS)]
    topics = sorted({match[1] for name in known if (match := _QOS_NAME.fullmatch(name))})
    for name in _overrides(node):
        if name.startswith(_QOS) and name not in known:
            raise UsageError(f"{name} is of no topic that can be overridden; there are {', '.join(topics)}")


def _check_qos(name: str, value: Any) -> None:
    match = _QOS_NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name} is no override; write qos_overrides./TOPIC.subscription.reliability, or .publisher.")
    policy = match[4]
    if policy not in _POLICIES:
        raise UsageError(f"{name} overrides {policy!r}{_meant(policy, _POLICIES)}; set {', '.join(_POLICIES)}")
    if policy == "depth":
        if type(value) is not int or value < 0:
            raise UsageError(f"{name} is {value!r}; set a whole number from 0 on")
    elif str(value).lower() not in _POLICIES[policy]:
        raise UsageError(f"{name} is {value!r}; set one of {', '.join(_POLICIES[policy])}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _overrides(node: Node) -> dict[str, Any]:
    return node._parameter_overrides  # type: ignore[no-any-return]
