"""Gets rclpy and the built messages ready for the Python that runs this; knows nothing of the node.

    .venv/bin/python ros2_ws/setup_ros.py

Where a ROS is sourced, it is used as it is. Elsewhere rclpy comes from PyPI, as wheels, into this Python's
virtual environment. Either way ``inspection_msgs`` is built into ``ros2_ws/install``, once: a second call
returns at once. Afterwards ``ros2_ws/run COMMAND`` runs anything with all of it importable.

Exit codes: 0 ready, 1 an error with its remedy, 69 (``EX_UNAVAILABLE``) where this machine can have neither.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent
INSTALL = WORKSPACE / "install"
STAMP = INSTALL / ".setup_ros"
WHEELS = INSTALL / ".wheels"  # where the packages from PyPI are, for ros2_ws/run
WHEEL_PYTHONS = ((3, 10), (3, 13))  # the CPython versions that rclpy's wheels exist for, first and last
BUILD_TIMEOUT_S = 900


class SetupError(Exception):
    """ROS could not be set up; the message says what to do."""

    exit_code = 1


class UnavailableError(SetupError):
    """Neither a sourced ROS nor wheels: this machine runs the inspector without topics."""

    exit_code = os.EX_UNAVAILABLE


def main() -> int:
    """Set up what is missing and say what was done."""
    try:
        sourced = os.environ.get("ROS_DISTRO")
        if STAMP.is_file() and STAMP.read_text() == fingerprint() and importlib.util.find_spec("rclpy"):
            print("ROS 2 is set up")
            return 0
        check_sourced_ros(sourced) if sourced else install_wheels()
        build_messages([] if sourced else wheel_cmake_args())
        WHEELS.write_text("" if sourced else sys.prefix)
        STAMP.write_text(fingerprint())
    except SetupError as error:
        print(f"setup_ros: {error}", file=sys.stderr)
        return error.exit_code
    print(f"ROS 2 is set up ({f'sourced {sourced}' if sourced else 'rclpy from PyPI'})")
    return 0


def fingerprint() -> str:
    """Changes with the messages, the pins, this script, the Python and the sourced ROS."""
    digest = hashlib.sha256("|".join((sys.prefix, sys.version, os.environ.get("ROS_DISTRO", ""))).encode())
    sources = sorted(path for path in (WORKSPACE / "src" / "inspection_msgs").rglob("*") if path.is_file())
    for path in (*sources, WORKSPACE / "build-requirements.txt", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_sourced_ros(distro: str) -> None:
    """Raise unless this Python can import the sourced ROS's rclpy and colcon is there to build with."""
    python = f"Python {platform.python_version()}"
    if subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True, timeout=60).returncode != 0:
        raise SetupError(
            f"ROS {distro} is sourced, but {python} cannot import its rclpy; make the virtual environment with the "
            "Python that this ROS was built for, or start from a shell without ROS to get rclpy from PyPI"
        )
    if not shutil.which("colcon"):
        raise SetupError("colcon is missing; install it: sudo apt install python3-colcon-common-extensions")


def install_wheels() -> None:
    """Install rclpy and the build tools from PyPI into this virtual environment, where wheels exist.

    Raises:
        UnavailableError: no wheels for this machine or Python.
        SetupError: this Python is not a virtual environment, or pip failed.
    """
    first, last = WHEEL_PYTHONS
    machine, version = platform.machine(), sys.version_info[:2]
    if (sys.platform, machine) != ("linux", "x86_64") or not first <= version <= last:
        raise UnavailableError(
            f"no ROS is sourced, and PyPI has no rclpy for {sys.platform} {machine}, Python {version[0]}.{version[1]} "
            f"(wheels exist for Linux x86_64, Python {first[0]}.{first[1]} to {last[0]}.{last[1]}); install and source "
            "ROS 2 for topics, or go on without them"
        )
    if sys.prefix == sys.base_prefix:
        raise SetupError("run this with the Python of a virtual environment: the wheels bring 90 packages with them")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    packages = ["--editable", f"{WORKSPACE.parent}[ros]", "--requirement", str(WORKSPACE / "build-requirements.txt")]
    if subprocess.run([*pip, *packages], timeout=BUILD_TIMEOUT_S).returncode != 0:
        raise SetupError("pip could not install the ROS wheels; its message is above")


def wheel_cmake_args() -> list[str]:
    """What CMake must be told to build against the wheels, after mending the paths that they export.

    Raises:
        SetupError: a compiler, CMake or Python's headers are missing.
    """
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            raise SetupError(f"{tool} is missing, and the messages need it; install it: sudo apt install cmake g++")
    python_include = sysconfig.get_path("include")
    if not Path(python_include, "Python.h").is_file():
        raise SetupError(f"Python.h is not in {python_include}; install it: sudo apt install python3-dev")
    import numpy  # not before the wheels are installed

    mend_exported_paths(Path(sys.prefix), python_include, numpy.get_include())
    return [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_PREFIX_PATH={sys.prefix}"]


def mend_exported_paths(prefix: Path, python_include: str, numpy_include: str) -> None:
    """Rewrite the include folders of the machine that built the wheels, which their CMake files name."""
    builder = r"/opt/python/[^/;\"]+"
    for path in prefix.glob("share/*/cmake/*Export.cmake"):
        text = path.read_text()
        mended = re.sub(rf"{builder}/lib/[^;\"]+/numpy/[^;\"]*include", lambda _: numpy_include, text)
        mended = re.sub(rf"{builder}/include/[^/;\"]+", lambda _: python_include, mended)
        if mended != text:
            path.write_text(mended)


def build_messages(cmake_args: list[str]) -> None:
    """Build ``inspection_msgs`` afresh: a CMake cache of another Python would build for that one."""
    folders = {name: WORKSPACE / name for name in ("build", "install", "log")}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    command = ["colcon"]
    environment = dict(os.environ)
    if cmake_args:
        command = [sys.executable, "-m", "colcon"]
        environment["AMENT_PREFIX_PATH"] = sys.prefix
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    command += ["--log-base", str(folders["log"]), "build", "--merge-install", "--packages-select", "inspection_msgs"]
    command += ["--base-paths", str(WORKSPACE / "src")]
    command += ["--build-base", str(folders["build"]), "--install-base", str(folders["install"])]
    command += ["--cmake-args", "-DBUILD_TESTING=OFF", *cmake_args]
    print("building inspection_msgs (half a minute, once)", flush=True)
    built = subprocess.run(command, env=environment, timeout=BUILD_TIMEOUT_S, capture_output=True, text=True)
    if built.returncode != 0:
        raise SetupError(f"colcon could not build inspection_msgs:\n{built.stdout}{built.stderr}")


if __name__ == "__main__":
    sys.exit(main())
