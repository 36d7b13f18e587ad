"""NVIDIA's real TensorRT bindings made importable without TensorRT; knows wheels and linkers, no name of the API.

A wheel of ``tensorrt-cu12-bindings`` holds only the Python side. Its module loads three native libraries, and asks
them for nine functions; libraries that export nine empty ones let it be imported, on any Linux with a C compiler.
Wheels are kept in ``build/conformance``, so that the network is needed once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "conformance"
EXTRACT = Path(__file__).with_name("extract.py")

# What JetPack 6.2 has, what the calibrator route must live with until its end, and both ends of what follows.
VERSIONS = ("10.3.0", "10.6.0", "10.9.0.34", "10.16.1.11", "11.0.0.114", "11.4.0.106")
LAST_WITH_CALIBRATORS = "10.16.1.11"

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
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


class UnavailableError(Exception):
    """The bindings cannot be had on this machine; the message says why."""


def environment(version: str) -> dict[str, str]:
    """Environment variables with which ``import tensorrt_bindings`` gives ``version``.

    Raises:
        UnavailableError: no network and nothing kept, or no C compiler.
    """
    wheel, libraries = _unpacked_wheel(version), _stub_libraries(version.partition(".")[0])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), str(ROOT)]), "LD_LIBRARY_PATH": str(libraries)}


def run_python(version: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the bindings of ``version`` importable, as ``tensorrt`` too."""
    preface = "import sys, tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings\n"
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
    command = [sys.executable, str(EXTRACT)]
    done = subprocess.run(command, env=environment(version), capture_output=True, timeout=_TIMEOUT_S, check=True)
    document = json.loads(done.stdout)
    assert document["version"] == version
    return dict(document["names"])


def _unpacked_wheel(version: str) -> Path:
    folder = CACHE / f"{version}-cp{sys.version_info.major}{sys.version_info.minor}"
    if not folder.exists():
        wheels = CACHE / "wheels"
        requirement = f"tensorrt-cu12-bindings=={version}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", requirement]
        done = subprocess.run(
            [*command, "-d", str(wheels), "--retries=0", "--timeout=15"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnavailableError(f"cannot download {requirement} ({reason})")
        tag = f"{version}-cp{sys.version_info.major}{sys.version_info.minor}-"
        [wheel] = (path for path in wheels.iterdir() if tag in path.name)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder


def _stub_libraries(major: str) -> Path:
    folder = CACHE / f"stubs-{major}"
    if not folder.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise UnavailableError("there is no C compiler to make stubs of TensorRT's libraries")
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS)
        for library in _LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(partial / name), "-x", "c", "-"]
            subprocess.run(command, input=source, text=True, timeout=_TIMEOUT_S, check=True)
        partial.rename(folder)
    return folder
