"""What a node is started with beside what it knows: refused, with the name that was meant; knows no node's parameters.

rclpy passes over parameters that a node does not declare, so that a misspelt budget would be no budget.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

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
