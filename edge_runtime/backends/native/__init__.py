"""Operators for processors with AMX, compiled when the package is installed; knows no graph and no bundle."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

from edge_runtime.errors import BundleTargetError, EdgeRuntimeError, MissingDependencyError

DOMAIN = "edge_runtime.amx"  # of their names, in a graph

_CPUINFO = Path("/proc/cpuinfo")
_OTHER = "build for the target onnxruntime, which runs anywhere"
_FEATURES = ("amx_tile", "amx_int8", "amx_bf16", "avx512_vnni", "avx512_bf16")  # as Linux calls them
_ARCH_PRCTL = 158  # on x86-64
_REQUEST_PERMISSION, _TILE_DATA = 0x1023, 18  # Linux 5.16 hands the tiles' registers out to processes that ask


@cache
def find_operators(cpuinfo: Path = _CPUINFO) -> Path:
    """The library of the domain ``edge_runtime.amx``, for ONNX Runtime to load; the process may use AMX from now on.

    Raises:
        BundleTargetError: this processor, or its system, has no AMX.
        MissingDependencyError: the library was not compiled.
    """
    check_amx(cpuinfo)
    library = Path(__file__).with_name("operators.so")
    if not library.is_file():
        raise MissingDependencyError(
            "the operators for AMX were not compiled; reinstall edge-runtime where there is a C++ compiler, GCC 11 or "
            f"Clang 12 at least, or {_OTHER}"
        )
    return library


def check_amx(cpuinfo: Path = _CPUINFO) -> None:
    """See whether this process may use AMX, and ask for it.

    Raises:
        BundleTargetError: this processor, or its system, has none.
    """
    features = _processor_features(cpuinfo)
    lacking = [feature for feature in _FEATURES if feature not in features]
    if lacking:
        raise BundleTargetError(f"this processor lacks {', '.join(lacking)}; {_OTHER}")
    if ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA):
        reason = os.strerror(ctypes.get_errno())
        raise BundleTargetError(f"this system lets no process use AMX ({reason}); it takes Linux 5.16, or {_OTHER}")


def has_operators() -> bool:
    """Whether bundles for AMX run here."""
    try:
        find_operators()
    except EdgeRuntimeError:
        return False
    return True


def _processor_features(cpuinfo: Path) -> frozenset[str]:
    if platform.machine() != "x86_64":
        return frozenset()
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), ()))
