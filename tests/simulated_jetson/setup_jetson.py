"""Gets the simulated Jetson ready for the Python that runs this: our libcuda, and the real pycuda linked to it.

    .venv/bin/python tests/simulated_jetson/setup_jetson.py

Everything lies in ``build/jetson``: headers of CUDA 12.6 (JetPack 6.2's) from PyPI, ``libcuda.so.1``, pycuda's wheel,
which takes minutes to compile and is kept, and pycuda installed beside, so that no environment of Python is changed.
Afterwards ``tests/simulated_jetson/run COMMAND`` runs anything on it.

Exit codes: 0 ready, 1 an error with its remedy, 69 (``EX_UNAVAILABLE``) where there is no C compiler.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "jetson"
HEADERS = BUILD / "nvidia" / "cuda_runtime" / "include"
LIBCUDA = BUILD / "libcuda.so.1"
PACKAGES = BUILD / "python"
CUDA_HEADERS = "nvidia-cuda-runtime-cu12==12.6.77"
PYCUDA = "pycuda==2026.1"
TIMEOUT_S = 1800

PYCUDA_CONFIGURATION = f"""\
USE_SHIPPED_BOOST = True
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDA_INC_DIR = [{str(HEADERS)!r}, {str(HERE / "libcuda")!r}]
CUDADRV_LIB_DIR = [{str(BUILD)!r}]
CXXFLAGS = ["-O0", "-w"]
"""


class SetupError(Exception):
    """The simulated Jetson could not be built; the message says what to do."""


def main() -> int:
    """Build what is missing."""
    if not shutil.which("cc") or not shutil.which("c++"):
        print("no C++ compiler, so the simulated Jetson is left out: sudo apt install build-essential", file=sys.stderr)
        return os.EX_UNAVAILABLE
    try:
        BUILD.mkdir(parents=True, exist_ok=True)
        fetch_headers()
        compile_libcuda()
        install(compiled_pycuda())
    except (SetupError, OSError) as error:
        print(f"setup_jetson: {error}", file=sys.stderr)
        return 1
    return 0


def fetch_headers() -> None:
    """CUDA's headers, out of the wheel that brings them."""
    if not (HEADERS / "cuda.h").is_file():
        with zipfile.ZipFile(download(CUDA_HEADERS, "*.whl", "--only-binary=:all:")) as wheel:
            wheel.extractall(BUILD)


def compile_libcuda() -> None:
    """Our driver, checked by the compiler against NVIDIA's declarations."""
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden"]
    sources = sorted((HERE / "libcuda").glob("*.c"))
    new = LIBCUDA.with_suffix(".new")  # renamed, as somebody may be running on the old one
    shared = ["-shared", "-Wl,-soname,libcuda.so.1", "-o", new, "-lpthread"]
    call(["cc", *flags, f"-I{HEADERS}", *sources, *shared], f"cannot compile {HERE / 'libcuda'}")
    new.replace(LIBCUDA)
    link = BUILD / "libcuda.so"  # the name that linkers look for
    if not link.exists():
        link.symlink_to(LIBCUDA.name)


def compiled_pycuda() -> Path:
    """Pycuda's wheel for this Python, compiled from its source unless that was done before."""
    kept = BUILD / "wheels" / f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
    if not list(kept.glob("pycuda-*.whl")):
        archive = download(PYCUDA, "pycuda-*.tar.gz", "--no-binary=pycuda")
        with tarfile.open(archive) as source:
            source.extraction_filter = getattr(tarfile, "data_filter", None)  # the oldest Pythons have none
            source.extractall(BUILD)
        source_tree = BUILD / archive.name.removesuffix(".tar.gz")
        (source_tree / "siteconf.py").write_text(PYCUDA_CONFIGURATION)
        print("compiling pycuda, which takes minutes and happens once", file=sys.stderr, flush=True)
        call([*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", kept, source_tree], "cannot compile pycuda")
        shutil.rmtree(source_tree)
    return next(kept.glob("pycuda-*.whl"))


def install(wheel: Path) -> None:
    """Unpack it, with what it needs, where ``run`` looks."""
    stamp = PACKAGES / "installed-from"
    if not stamp.is_file() or stamp.read_text() != str(wheel):
        shutil.rmtree(PACKAGES, ignore_errors=True)
        call([*PIP, "install", "--quiet", "--target", PACKAGES, wheel], f"cannot install {wheel.name}")
        stamp.write_text(str(wheel))


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def download(requirement: str, pattern: str, *options: str) -> Path:
    """One distribution file from PyPI, without what it depends on."""
    if not list(BUILD.glob(pattern)):
        command = [*PIP, "download", "--quiet", "--no-deps", *options, "--dest", BUILD, requirement]
        call(command, f"cannot download {requirement}; connect to PyPI")
    return next(BUILD.glob(pattern))


def call(command: list[str | Path], otherwise: str) -> None:
    """Run a command whose own words, where it fails, are on stderr."""
    if subprocess.run(command, stdout=sys.stderr, timeout=TIMEOUT_S).returncode != 0:
        raise SetupError(f"{otherwise} (see above)")


if __name__ == "__main__":
    sys.exit(main())
