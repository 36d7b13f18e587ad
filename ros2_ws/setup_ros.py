"""Gets rclpy and the built messages ready for the Python that runs this; knows nothing of the node.

    .venv/bin/python ros2_ws/setup_ros.py

Where a ROS is sourced, it is used as it is. Elsewhere rclpy comes from PyPI, as wheels, into this Python's
virtual environment, and ``launch`` and ROS's own command line, which PyPI does not have, from their repositories,
where those can be reached. Either way ``inspection_msgs`` is built into ``ros2_ws/install``, once: a second call
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
BUILD, INSTALL, LOG = WORKSPACE / "build", WORKSPACE / "install", WORKSPACE / "log"
SOURCES = BUILD / "sources"  # of what is neither here nor on PyPI
STAMP = INSTALL / ".setup_ros"
WHEELS = INSTALL / ".wheels"  # where the packages from PyPI are, for ros2_ws/run
WHEEL_PYTHONS = ((3, 10), (3, 13))  # the CPython versions that rclpy's wheels exist for, first and last
BUILD_TIMEOUT_S = 900
FETCH_TIMEOUT_S = 120  # a repository; where a firewall drops packets, git waits for ever
REPOSITORIES = "https://github.com/ros2"
# Of launch files and of `ros2`: by repository the commit, of Jazzy's release that the wheels are of, and the packages.
LAUNCH_SOURCES = {
    "launch": ("09403fcebedb68dd259e9ab6b35bd8712b6596ec", ("launch", "launch_xml", "launch_yaml")),
    "launch_ros": ("62c56e53e86812023697fe330c83d327f54e7b18", ("launch_ros", "ros2launch")),
    "rcl_interfaces": ("003987ecb81a32802ab27dd6d325b8c6b8b813cc", ("composition_interfaces",)),
    "rosidl_runtime_py": ("df2361f64ecb85f65f4bf22e804424e0f1ac4197", (".",)),
    "ros2cli": (
        "de6cd27284937044d8dff47a617581c28865210c",
        (
            "ros2cli",
            *("ros2action", "ros2interface", "ros2lifecycle", "ros2node", "ros2param", "ros2pkg", "ros2run"),
            *("ros2service", "ros2topic"),
        ),
    ),
}


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
        clear_workspace()
        folders = [WORKSPACE / "src" / "inspection_msgs", *([] if sourced else fetch_launch())]
        build_packages(folders, [] if sourced else wheel_cmake_args())
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


def clear_workspace() -> None:
    """Remove what was built before: a CMake cache of another Python would build for that one."""
    for folder in (BUILD, INSTALL, LOG):
        shutil.rmtree(folder, ignore_errors=True)


def fetch_launch() -> list[Path]:
    """Fetch the packages of ``launch`` and ``ros2``; none, which is said, where they cannot be had.

    Nothing but tests needs them.
    """
    for name, (commit, _) in LAUNCH_SOURCES.items():
        folder = SOURCES / name
        steps = (["init", "--quiet"], ["fetch", "--quiet", "--depth=1", f"{REPOSITORIES}/{name}", commit])
        for step in (*steps, ["checkout", "--quiet", commit]):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                ran = subprocess.run(
                    ["git", "-C", str(folder), *step],
                    timeout=FETCH_TIMEOUT_S,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
                )
                failure = ran.stderr.strip() if ran.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                failure = str(error)
            if failure:
                print(
                    f"setup_ros: {REPOSITORIES}/{name} cannot be had ({failure}), so tests of launch files and of ros2 "
                    f"are skipped; where it can be reached, remove {INSTALL} and run this again",
                    file=sys.stderr,
                )
                shutil.rmtree(SOURCES)
                return []
    return [SOURCES / name / package for name, (_, packages) in LAUNCH_SOURCES.items() for package in packages]


def build_packages(folders: list[Path], cmake_args: list[str]) -> None:
    """Build the packages in ``folders`` into the workspace, and none that lie beside them."""
    packages = [folder.name for folder in folders]
    command = ["colcon"]
    environment = dict(os.environ)
    if cmake_args:
        command = [sys.executable, "-m", "colcon"]
        environment["AMENT_PREFIX_PATH"] = sys.prefix
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    command += ["--log-base", str(LOG), "build", "--merge-install", "--packages-select", *packages]
    command += ["--base-paths", *map(str, folders)]
    command += ["--build-base", str(BUILD), "--install-base", str(INSTALL)]
    command += ["--cmake-args", "-DBUILD_TESTING=OFF", *cmake_args]
    more = f" and {len(packages) - 1} packages of launch and ros2" if len(packages) > 1 else ""
    print(f"building inspection_msgs{more} (half a minute, once)", flush=True)
    built = subprocess.run(command, env=environment, timeout=BUILD_TIMEOUT_S, capture_output=True, text=True)
    if built.returncode != 0:
        raise SetupError(f"colcon could not build {' '.join(packages)}:\n{built.stdout}{built.stderr}")


if __name__ == "__main__":
    sys.exit(main())
