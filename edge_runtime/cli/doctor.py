"""What this machine and installation can do, and whether a bundle is healthy; changes nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.backends.native import find_operators
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import EdgeRuntimeError, MissingDependencyError
from edge_runtime.inspector import Inspector
from edge_runtime.memory.plan import format_bytes
from edge_runtime.memory.telemetry import read_memory, read_temperature_c
from edge_runtime.vision.image_processors import describe_image

_LIBRARIES = ("numpy", "onnxruntime", "llguidance", "tokenizers", "psutil", "PyYAML")
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis; a problem is a reason that inspections cannot run here."""

    name: str
    found: str
    exit_code: int = 0  # of a command that has this problem
    is_absent: bool = False  # as on most machines, which is no problem

    @property
    def is_problem(self) -> bool:
        """Whether it is one."""
        return self.exit_code != 0


def examine(bundle: str | Path | None = None, budget_bytes: int | None = None) -> list[Check]:
    """Examine the machine, the libraries, and ``bundle``: every hash, then one frame through it in ``budget_bytes``."""
    checks = [*_machine_checks(), *_library_checks()]
    return checks if bundle is None else [*checks, *_bundle_checks(Path(bundle), budget_bytes)]


def _machine_checks() -> list[Check]:
    memory = read_memory()
    temperature_c = read_temperature_c()
    ros, has_rclpy = os.environ.get("ROS_DISTRO") or "none sourced", bool(find_spec("rclpy"))
    rclpy = "present" if has_rclpy else "absent: pip install '.[ros]' in a checkout"
    temperature = "no sensor" if temperature_c is None else f"{temperature_c:.0f} °C"
    return [
        Check("python", f"{platform.python_version()} on {platform.machine()}"),
        Check("cores", str(len(os.sched_getaffinity(0)))),
        Check("memory", f"{format_bytes(memory.available_bytes)} of {format_bytes(memory.total_bytes)} available"),
        Check("temperature", temperature, is_absent=temperature_c is None),
        Check("ROS 2", f"{ros}, rclpy {rclpy}", is_absent=not has_rclpy),
        _amx_check(),
        *_tensorrt_checks(),
    ]


def _amx_check() -> Check:
    try:
        find_operators()
    except EdgeRuntimeError as error:
        return Check("AMX", f"none: {error}", is_absent=True)
    return Check("AMX", "present, with operators: bundles for onnxruntime-amx run here, faster than for onnxruntime")


def _tensorrt_checks() -> list[Check]:
    """What engines for TensorRT would run on; only a bundle that needs it makes its absence a problem."""

    def library(target: str) -> str:
        from edge_runtime.backends.tensorrt.module import load_library

        return str(load_library(target).__version__)

    def device() -> str:
        from edge_runtime.backends.tensorrt.cuda import Device

        with closing(Device()) as found:
            return f"{found.name}, compute capability {found.compute_capability}, {format_bytes(found.total_bytes)}"

    def found(name: str, ask: Callable[[], str]) -> Check:
        try:
            return Check(name, ask())
        except EdgeRuntimeError as error:
            return Check(name, f"none: {error}", is_absent=True)

    checks = [found("TensorRT", lambda: library("tensorrt")), found("CUDA", device)]
    if find_spec("tensorrt_rtx_bindings"):
        checks.append(found("TensorRT RTX", lambda: library("tensorrt-rtx")))
    if _TEGRA_RELEASE.is_file():
        checks.append(Check("Jetson Linux", _TEGRA_RELEASE.read_text().partition(", GCID")[0].lstrip("# ")))
    return checks


def _library_checks() -> list[Check]:
    def check(library: str) -> Check:
        try:
            return Check(library, version(library))
        except PackageNotFoundError:
            return Check(library, "absent; pip install . in a checkout", MissingDependencyError.exit_code)

    # OpenCV's distribution has four names, so the module is asked.
    return [Check("opencv", cv2.__version__), *map(check, _LIBRARIES)]


def _bundle_checks(path: Path, budget_bytes: int | None) -> list[Check]:
    try:
        manifest = load_bundle(path, verify_hashes=True).manifest
        checks = [
            Check(
                "bundle", f"{manifest.name}, {manifest.recipe}, {manifest.target}, {format_bytes(manifest.size_bytes)}"
            ),
            Check("image", describe_image(manifest.image)),
            Check("files", f"{len(manifest.files)}, sizes and SHA-256 as recorded"),
        ]
        with Inspector.open(path, budget_bytes) as inspector:
            checks.append(Check("reports on", f"{inspector.schema.name}: {', '.join(inspector.schema.class_names)}"))
            report = inspector.inspect(np.full((480, 640, 3), 128, np.uint8))
            memory_plan = inspector.memory_plan
    except EdgeRuntimeError as error:
        return [Check("bundle", str(error), error.exit_code)]
    planned, measured = format_bytes(memory_plan.planned_bytes), format_bytes(memory_plan.measured_bytes)
    return [
        *checks,
        Check("one frame", f"{report.timings.total_ms:.0f} ms, {report.tokens} tokens (the first frame is slower)"),
        Check("bundle memory", f"{planned} planned, {measured} measured"),
    ]
