"""The machines that a bundle is planned for, from YAML; knows what they have, and nothing of models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from edge_runtime.errors import RecipeError

_DEVICES = Path(__file__).with_name("device_profiles")
_LARGEST_PROFILE_BYTES = 1 << 16
_PRECISIONS = {"float16", "int8", "int4", "nf4"}
_ABOVE_ALL = math.nextafter(1.0, 2.0)  # for shares, of which 1 is the largest


@dataclass(frozen=True)
class Device:
    """A device profile."""

    name: str
    summary: str
    target: str  # what bundles are built for
    memory_bytes: int  # that its kernel sees
    reserve_bytes: int  # of it, for everything that is not the runtime
    read_bytes_per_s: float
    read_share: float  # of them, that decoding is known to reach
    operations_per_s: Mapping[str, float]  # by the precision of weights; a multiplication and an addition are two
    operations_share: float  # of them, that prefill is known to reach

    @property
    def budget_bytes(self) -> int:
        """What is left to the runtime."""
        return self.memory_bytes - self.reserve_bytes


def known_devices() -> tuple[str, ...]:
    """Names of the profiles that come with the builder."""
    return tuple(sorted(path.stem for path in _DEVICES.glob("*.yaml")))


def load_device(device: str) -> Device:
    """The profile of that name, or in that YAML file.

    Raises:
        RecipeError: there is none, or it lacks a field, or holds a value that cannot be.
    """
    path = _DEVICES / f"{device}.yaml" if device in known_devices() else Path(device)
    try:
        if path.stat().st_size > _LARGEST_PROFILE_BYTES:
            raise RecipeError(f"{path} is no device profile: it is larger than {_LARGEST_PROFILE_BYTES} bytes")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error})"
        raise RecipeError(
            f"there is no device {device!r}{reason}; use one of {', '.join(known_devices())}, or a YAML file's path"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    expected = {field.name for field in fields(Device)} - {"name"}
    if not isinstance(document, dict) or set(document) != expected:
        found = ", ".join(map(str, document)) if isinstance(document, dict) else "none"
        raise RecipeError(f"{path} has the fields {found}; expected {', '.join(sorted(expected))}")
    return _device_from_yaml(path, document)


def _device_from_yaml(path: Path, document: Mapping[str, Any]) -> Device:
    def number(field: str, value: Any, below: float = math.inf) -> float:
        if type(value) not in (int, float) or not 0 < value < below:
            raise RecipeError(f"{path} has {field} {value!r}; expected a number above 0 and below {below:g}")
        return float(value)

    speeds = document["operations_per_s"]
    if not isinstance(speeds, dict) or set(speeds) != _PRECISIONS:
        raise RecipeError(f"{path} has operations_per_s {speeds!r}; expected one for each of {sorted(_PRECISIONS)}")
    memory_bytes = int(number("memory_bytes", document["memory_bytes"]))
    return Device(
        name=path.stem,
        summary=str(document["summary"]),
        target=str(document["target"]),
        memory_bytes=memory_bytes,
        reserve_bytes=int(number("reserve_bytes", document["reserve_bytes"], memory_bytes)),
        read_bytes_per_s=number("read_bytes_per_s", document["read_bytes_per_s"]),
        read_share=number("read_share", document["read_share"], _ABOVE_ALL),
        operations_per_s={name: number(f"operations_per_s of {name}", speed) for name, speed in speeds.items()},
        operations_share=number("operations_share", document["operations_share"], _ABOVE_ALL),
    )
