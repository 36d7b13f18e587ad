"""The onboard half: open an engine bundle inside a byte budget and turn camera frames into inspection reports.

    from edge_runtime import Inspector

    with Inspector.open("bundle", budget="2GB") as inspector:
        report = inspector.inspect(frame)  # uint8 (H, W, 3), BGR as OpenCV gives it

Everything below is reached from here; importing this package loads neither an engine nor OpenCV until one is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import (
    BackendError,
    BudgetExceededError,
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleTargetError,
    BundleVersionError,
    EdgeRuntimeError,
    FlightLogError,
    FrameError,
    MissingDependencyError,
    SchemaError,
    SourceError,
)
from edge_runtime.reports.report import Finding, InspectionReport, Region, Timings, json_from_report, report_from_json
from edge_runtime.reports.schema import ReportSchema, load_schema

if TYPE_CHECKING:
    from edge_runtime.bundle.opening import Bundle, load_bundle
    from edge_runtime.inspector import Inspector
    from edge_runtime.language.questions import Choice, Json, Reply, Text
    from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem
    from edge_runtime.stream.sources import load_image, open_source

__all__ = [
    "BackendError",
    "BudgetExceededError",
    "Bundle",
    "BundleCorruptError",
    "BundleError",
    "BundleNotFoundError",
    "BundleTargetError",
    "BundleVersionError",
    "Choice",
    "EdgeRuntimeError",
    "Finding",
    "FlightLogError",
    "FrameError",
    "InspectionReport",
    "Inspector",
    "Json",
    "MemoryPlan",
    "MemoryPlanItem",
    "MissingDependencyError",
    "Region",
    "Reply",
    "ReportSchema",
    "SchemaError",
    "SourceError",
    "Text",
    "Timings",
    "json_from_report",
    "load_bundle",
    "load_image",
    "load_schema",
    "open_source",
    "report_from_json",
]

_LAZY = {
    "Bundle": "bundle.opening",
    "Choice": "language.questions",
    "Inspector": "inspector",
    "Json": "language.questions",
    "MemoryPlan": "memory.plan",
    "MemoryPlanItem": "memory.plan",
    "Reply": "language.questions",
    "Text": "language.questions",
    "load_bundle": "bundle.opening",
    "load_image": "stream.sources",
    "open_source": "stream.sources",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("edge-runtime")
        except PackageNotFoundError:
            return "of a checkout that is not installed"
    if name in _LAZY:
        return getattr(import_module(f"edge_runtime.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
