"""An engine file of the double: the ONNX graph as it is to be executed, and what the builder decided beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import onnx

MAGIC = b"simulated TensorRT engine\n"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Everything but the graph."""

    version: str
    compute_capability: str
    name: str
    profiles: tuple[dict[str, tuple[Shape, Shape, Shape]], ...]  # smallest, likeliest, largest
    weight_copies: int  # one a profile, but for profiles that were to take no more memory
    int8_layers: tuple[str, ...]  # that the implicit route made INT8


def container_of(plan: Plan, model: onnx.ModelProto) -> bytes:
    """The bytes of the engine file."""
    header = json.dumps(asdict(plan)).encode()
    return MAGIC + len(header).to_bytes(8, "little") + header + model.SerializeToString()


def plan_of(container: Any) -> tuple[Plan, onnx.ModelProto] | None:
    """Inverse of :func:`container_of`; None where it is no engine."""
    data = memoryview(container)
    start = len(MAGIC) + 8
    if bytes(data[: len(MAGIC)]) != MAGIC:
        return None
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    try:
        header = json.loads(bytes(data[start:end]))
        model = onnx.load_from_string(bytes(data[end:]))
    except Exception:  # truncated or altered
        return None
    shapes = [{name: tuple(map(tuple, three)) for name, three in profile.items()} for profile in header["profiles"]]
    return Plan(**{**header, "profiles": tuple(shapes), "int8_layers": tuple(header["int8_layers"])}), model
