"""NVIDIA's real TensorRT bindings made importable without TensorRT; knows wheels and linkers, no name of the API.

A wheel of bindings holds only the Python side. Its module loads two or three native libraries, and asks them for nine
functions; libraries that export nine empty ones let it be imported, on any Linux with a C compiler. Wheels are kept in
``build/conformance``, so that the network is needed once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "conformance"
EXTRACT = Path(__file__).with_name("extract.py")

# What JetPack 6.2 has, what the calibrator route must live with until its end, and both ends of what follows.
VERSIONS = ("10.3.0", "10.6.0", "10.9.0.34", "10.16.1.11", "11.0.0.114", "11.4.0.106")
RTX = "rtx-1.7.1.116"  # TensorRT for RTX, whose engines the builder makes with the same code

_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_TIMEOUT_S = 120


@dataclass(frozen=True)
class _Wheel:
    """Bindings as PyPI has them."""

    requirement: str
    module: str
    libraries: tuple[str, ...]  # that it loads

    @classmethod
    def of(cls, version: str) -> _Wheel:
        """The wheel of a version, as it is called in ``VERSIONS``."""
        number = version.removeprefix("rtx-")
        major = number.partition(".")[0]
        if version != number:
            libraries = tuple(f"lib{name}.so.{major}" for name in ("tensorrt_rtx", "tensorrt_onnxparser_rtx"))
            return cls(f"tensorrt-rtx-cu13-bindings=={number}", "tensorrt_rtx_bindings", libraries)
        libraries = tuple(f"lib{name}.so.{major}" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"))
        return cls(f"tensorrt-cu12-bindings=={number}", "tensorrt_bindings", libraries)


class UnavailableError(Exception):
    """The bindings cannot be had on this machine; the message says why."""


def environment(version: str) -> dict[str, str]:
    """Environment variables with which the bindings of ``version`` can be imported.

    Raises:
        UnavailableError: no network and nothing kept, or no C compiler.
    """
    wheel, libraries = _unpacked(_Wheel.of(version)), _stubs(_Wheel.of(version).libraries)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), str(ROOT)]), "LD_LIBRARY_PATH": str(libraries)}


def run_python(version: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the bindings of ``version`` importable, as ``tensorrt`` too."""
    preface = f"import sys, {_Wheel.of(version).module} as trt; sys.modules['tensorrt'] = trt\n"
    return subprocess.run(
        [sys.executable, "-c", preface + code],
        env=environment(version),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def extract_names(version: str) -> dict[str, Any]:
    """The names of the real bindings, as ``extract.py`` prints them."""
    command = [sys.executable, str(EXTRACT), _Wheel.of(version).module]
    done = subprocess.run(command, env=environment(version), capture_output=True, timeout=_TIMEOUT_S, check=True)
    document = json.loads(done.stdout)
    assert document["version"] == version.removeprefix("rtx-")
    return dict(document["names"])


def _unpacked(wheel: _Wheel) -> Path:
    name = wheel.requirement.replace("-", "_").replace("==", "-")  # as the file's name begins
    tag = f"{name}-cp{sys.version_info.major}{sys.version_info.minor}"
    folder = CACHE / tag
    if not folder.exists():
        wheels = CACHE / "wheels"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", wheel.requirement]
        done = subprocess.run(
            [*command, "-d", str(wheels), "--retries=0", "--timeout=15"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnavailableError(f"cannot download {wheel.requirement} ({reason})")
        [file] = wheels.glob(f"{tag}-*.whl")
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder


def _stubs(names: tuple[str, ...]) -> Path:
    folder = CACHE / f"stubs-{names[0]}"
    if not folder.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise UnavailableError("there is no C compiler to make stubs of TensorRT's libraries")
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS)
        for name in names:
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(partial / name), "-x", "c", "-"]
            subprocess.run(command, input=source, text=True, timeout=_TIMEOUT_S, check=True)
        partial.rename(folder)
    return folder
