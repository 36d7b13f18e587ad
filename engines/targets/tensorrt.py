"""The targets ``tensorrt`` and ``tensorrt-rtx``: a component's graph to its engine, and which way INT8 goes."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.backends.tensorrt.module import load_library
from edge_runtime.bundle.manifest import Component
from edge_runtime.errors import BackendError, MissingDependencyError
from engines.calibration.overflow import find_overflow
from engines.calibration.scales import calibrate_on_cpu
from engines.families.base import Part
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.layers.weights import TensorSource
from engines.onnx.builder import Graph
from engines.onnx.float32 import keep_float32
from engines.onnx.qdq import insert_qdq
from engines.onnx.tensors import load_graph, products_of_others
from engines.quantize.recipe import Precision
from engines.targets.base import Calibration, TargetOptions, component_of, write_rows
from engines.targets.calibrated import as_emitted, keep_emitted, save_graph
from engines.targets.tensorrt_compiler import Compiler, Configure
from engines.targets.tensorrt_implicit import allow_int8
from engines.targets.tensorrt_shapes import in_buckets, profiles_of

_log = logging.getLogger(__name__)

# The oldest that the product is held to (tests/conformance). 10.0 lacks names that the runtime uses; 8.6 has no
# strongly typed networks, no 4-bit weights, no operators beyond opset 17, and one context a profile.
_OLDEST = (10, 3)
_RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # GeForce RTX 30, 40 and 50; one engine serves all, at no more bytes


class TensorRTTarget:
    """Writes one engine a component, in a strongly typed network unless INT8 goes the implicit route."""

    def __init__(
        self, trt: Any, options: TargetOptions, compute_capabilities: tuple[str, ...], *, is_rtx: bool
    ) -> None:
        self._trt = trt
        self._options = options
        self._route = int8_route(trt, options.int8_route)
        self._versions = {
            "tensorrt": str(trt.__version__),
            "compute_capability": ",".join(compute_capabilities),
            "context_tokens": str(in_buckets(options.context_tokens)),
            "step_tokens": str(options.step_tokens),
            **({"int8_route": self._route} if options.has_int8 else {}),
        }
        self._shares_weights = not is_rtx
        self._compiler = Compiler(trt, compute_capabilities if is_rtx else (), options.timing_cache)

    @property
    def versions(self) -> Mapping[str, str]:
        """See :class:`engines.targets.base.Target`."""
        return self._versions

    def write_component(
        self,
        directory: Path,
        part: Part,
        source: TensorSource,
        precision: Precision,
        calibration: Calibration | None = None,
    ) -> Component:
        """See :class:`engines.targets.base.Target`."""
        if part.emit is None:
            return write_rows(directory, part, source, precision)
        path = self._graph_path(directory, part)
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        with ExitStack() as stack:
            if calibration is None:  # else images may still have to pass
                stack.callback(shutil.rmtree, path.parent, ignore_errors=True)
            with Graph(path) as graph:
                part.emit(graph, TensorRTLowering(), source, precision_to_emit(precision, self._route))
                graph.save()
            nodes, configure = self._calibrate(path, precision, calibration, stack) if calibration else ((), None)
            profiles = profiles_of(
                part.role, precision, graph.inputs, self._options, shares_weights=self._shares_weights
            )
            entry = self._compiler.compile(path, directory / f"{part.name}.engine", profiles, configure)
        return component_of(part, precision, (entry,), tuple(graph.inputs), tuple(graph.outputs), float32_nodes=nodes)

    def graph_of(self, directory: Path, part: Part) -> Path:
        """See :class:`engines.targets.base.Target`."""
        return as_emitted(self._graph_path(directory, part))

    @staticmethod
    def _graph_path(directory: Path, part: Part) -> Path:
        return directory / f"{part.name}.graph" / f"{part.name}.onnx"

    def _calibrate(
        self, path: Path, precision: Precision, calibration: Calibration, stack: ExitStack
    ) -> tuple[tuple[str, ...], Configure | None]:
        """Let the images pass, and change the graph as they say: INT8 in their ranges, float32 at nodes that overflow.

        Returns those nodes and, by the implicit route, what to do with TensorRT's builder while ``stack`` lasts.
        """
        runner, emitted, int8 = calibration.runner, keep_emitted(path), precision.int8
        ranges = calibration.cache(f"{path.stem}.cache")
        nodes = find_overflow(runner, emitted, calibration.cache(f"{path.stem}.overflow"), stay=int8 is not None).nodes
        if nodes:
            _log.warning("%s overflows float16, and stays float32 at %s", path.stem, ", ".join(nodes))
        model, is_implicit = load_graph(emitted), precision_to_emit(precision, self._route) != precision
        if int8 and not is_implicit:
            scales = calibrate_on_cpu(runner, emitted, ranges, self._trt.__version__, int8.range_method)
            model = insert_qdq(model, scales, {*nodes, *products_of_others(model)})
        model = keep_float32(model, nodes)
        save_graph(model, path)
        if not (int8 and is_implicit):
            return nodes, None
        from engines.calibration.entropy_calibrator import EntropyCalibrator  # here, as it needs TensorRT

        calibrator = stack.enter_context(EntropyCalibrator(runner, emitted, ranges, int8.range_method))
        shapes = runner.shapes(emitted)
        return nodes, allow_int8(self._trt, model, shapes, calibrator, lambda name: precision.of(name).dtype == "int8")


def open_tensorrt(options: TargetOptions) -> TensorRTTarget:
    """The TensorRT that is installed, for the GPU that is there.

    Raises:
        MissingDependencyError: TensorRT or pycuda is not installed.
        BackendError: there is no GPU, or it is not one that was asked for.
    """
    trt = load_library("tensorrt")
    check_version(trt)
    here = _compute_capability_here()
    if options.compute_capabilities not in (None, (here,)):
        raise BackendError(
            f"TensorRT builds for the GPU that is there, of compute capability {here}, and not for "
            f"{', '.join(options.compute_capabilities or ())}; build on that machine"
        )
    timing_cache = options.timing_cache or default_timing_cache(trt, here)
    return TensorRTTarget(trt, replace(options, timing_cache=timing_cache), (here,), is_rtx=False)


def precision_to_emit(precision: Precision, route: str) -> Precision:
    """At what a component's graph is emitted: float16 for INT8 where TensorRT will make it that itself.

    Where there are weights of 4 bits too, it is told in the graph: only strongly typed networks have those.
    """
    is_implicit = route == "implicit" and all(p.dtype != "int4" for p in precision.every)
    return precision.without_int8() if is_implicit else precision


def int8_route(trt: Any, asked: str | None) -> str:
    """Implicit where TensorRT has calibrators, explicit elsewhere, unless the other is asked for.

    Raises:
        BackendError: this TensorRT cannot go the way that is asked for.
    """
    has_calibrators = hasattr(trt, "IInt8EntropyCalibrator2")
    if asked == "implicit" and not has_calibrators:
        raise BackendError(
            f"TensorRT {trt.__version__} has no calibrators, as they ended with TensorRT 10; "
            "build with --int8-route explicit, which finds the ranges on the CPU"
        )
    return asked or ("implicit" if has_calibrators else "explicit")


def open_tensorrt_rtx(options: TargetOptions) -> TensorRTTarget:
    """TensorRT for RTX, which builds ahead of time, without a GPU.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return TensorRTTarget(
        load_library("tensorrt-rtx"), options, options.compute_capabilities or _RTX_CAPABILITIES, is_rtx=True
    )


def default_timing_cache(trt: Any, compute_capability: str) -> Path:
    """Where kernels' timings are kept between builds, so that the next one measures less."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "edge-engines" / f"tensorrt-{trt.__version__}-sm{compute_capability}.timing"


def check_version(trt: Any) -> None:
    """See whether TensorRT is one that the product is held to.

    Raises:
        MissingDependencyError: it is older.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", trt.__version__))
    if version < _OLDEST:
        raise MissingDependencyError(
            f"TensorRT {trt.__version__} is installed, and these engines need {'.'.join(map(str, _OLDEST))} or newer; "
            "JetPack 6.1 and later have it"
        )


def _compute_capability_here() -> str:
    from edge_runtime.backends.tensorrt.cuda import Device  # pycuda, which nothing else here needs

    device = Device()
    try:
        return device.compute_capability
    finally:
        device.close()
