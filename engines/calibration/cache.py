"""A calibration cache: TensorRT's own text, and beside it what it was made from; knows files, no graph and no image.

TensorRT keeps a cache's first line for itself and reads the rest as ``tensor: bits``, the bits of the float32 scale in
hexadecimal. It takes whatever cache it is given: that the cache is of this graph, these images and this version is
for the application to see to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge_runtime.errors import CalibrationError

_HEADER = re.compile(r"TRT-(\d+)-(EntropyCalibration2)")
_BITS = re.compile(r"[0-9a-f]{1,8}")
_LARGEST_CACHE_BYTES = 64 << 20
_MEND = "build with what it was made from, or delete it to calibrate again"


@dataclass(frozen=True)
class CacheBinding:
    """What scales hold for: a change in any of these makes them those of something else."""

    tensorrt: str  # version, such as "10.3.0"
    graph: str  # SHA-256 of the component's graph and weights
    data: str  # SHA-256 of what reaches the component: images, preprocessing, prompt, components before
    method: str = "entropy"


def version_number(tensorrt: str) -> int:
    """A TensorRT version as caches write it: 10.3.0 is 100300, 8.6.1 is 8601.

    Raises:
        CalibrationError: it is no version.
    """
    parts = re.match(r"(\d+)\.(\d+)\.(\d+)", tensorrt)
    if parts is None:
        raise CalibrationError(f"{tensorrt!r} is no TensorRT version; expected one such as 10.3.0")
    major, minor, patch = map(int, parts.groups())
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def text_from_scales(scales: Mapping[str, float], tensorrt: str) -> str:
    """A cache as TensorRT writes it; scales are rounded to float32.

    Raises:
        CalibrationError: a scale is not positive and finite, or a name has a line break.
    """
    lines = [f"TRT-{version_number(tensorrt)}-EntropyCalibration2"]
    for name, scale in scales.items():
        if not 0 < scale < float("inf") or "\n" in name or "\r" in name:
            raise CalibrationError(f"tensor {name!r} has the scale {scale}; expected a positive one, and a plain name")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def scales_from_text(text: str) -> dict[str, float]:
    """Inverse of :func:`text_from_scales`: scales by tensor name, exact.

    Raises:
        CalibrationError: the text is no cache of the entropy calibrator.
    """
    header, *lines = text.splitlines() or [""]
    if _HEADER.fullmatch(header) is None:
        raise CalibrationError(f"a calibration cache begins with {header[:60]!r}, expected TRT-...-EntropyCalibration2")
    scales = {}
    for number, line in enumerate(lines, 2):
        if line:
            name, colon, bits = line.rpartition(":")  # names may have colons themselves
            if not colon or not _BITS.fullmatch(bits := bits.strip()):
                raise CalibrationError(
                    f"line {number} of a calibration cache is {line[:60]!r}, expected `tensor: bits`"
                )
            (scales[name],) = struct.unpack(">f", bytes.fromhex(bits.zfill(8)))
    return scales


def save_cache(path: Path, text: str, binding: CacheBinding) -> None:
    """Write a cache and, beside it, ``<path>.json``: what it holds for.

    Raises:
        CalibrationError: a file cannot be written.
    """
    note = json.dumps({**asdict(binding), "cache": _sha256(text)}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in ((path, text), (_note_of(path), note)):
            partial = file.with_name(file.name + ".new")
            partial.write_text(content, encoding="utf-8", newline="\n")
            os.replace(partial, file)
    except OSError as error:
        raise CalibrationError(
            f"the calibration cache {path} cannot be written: {error}; name another place"
        ) from error


def load_cache(path: Path, binding: CacheBinding) -> str | None:
    """The cache's text if it holds for ``binding``; None where there is none.

    Raises:
        CalibrationError: it is stale, damaged, or nothing says what it holds for. The message names what differs.
    """
    text = load_text(path, binding)
    if text is not None:
        scales_from_text(text)
    return text


def load_text(path: Path, binding: CacheBinding) -> str | None:
    """As :func:`load_cache`, of any text that :func:`save_cache` wrote."""
    try:
        if not path.exists():
            return None
        if path.stat().st_size > _LARGEST_CACHE_BYTES:
            raise CalibrationError(f"{path} is no calibration cache: it is larger than {_LARGEST_CACHE_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
        note = json.loads(_note_of(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CalibrationError(
            f"{_note_of(path)} is missing, which says what {path.name} holds for; {_MEND}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"the calibration cache {path} cannot be read: {error}; {_MEND}") from error
    if not isinstance(note, dict) or note.get("cache") != _sha256(text):
        raise CalibrationError(f"the calibration cache {path} was altered since it was written; {_MEND}")
    differences = [
        f"{_WHAT[field.name]} (then {_short(note.get(field.name))}, now {_short(getattr(binding, field.name))})"
        for field in fields(binding)
        if note.get(field.name) != getattr(binding, field.name)
    ]
    if differences:
        raise CalibrationError(
            f"the calibration cache {path} is of another {' and another '.join(differences)}; {_MEND}"
        )
    return text


_WHAT = {
    "tensorrt": "TensorRT",
    "graph": "graph",
    "data": "set of images, prompt or components before",
    "method": "method",
}


def _short(value: object) -> str:
    return str(value)[:12]


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
