"""What calibration images say of a model, for a build by TensorRT on another machine; writes no engine.

A workstation has the time to carry 500 images through a model, and a Jetson has TensorRT. The directory that this one
fills is what the other's ``--calibration-cache`` reads; whatever differs between the two is refused there by name.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from edge_runtime.errors import CalibrationError, EdgeRuntimeError
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from engines.calibration.cache import version_number
from engines.calibration.images import CalibrationImages, warn_where_few
from engines.calibration.model import open_model_runner
from engines.calibration.overflow import find_overflow
from engines.calibration.rounding import open_calibrated
from engines.calibration.scales import calibrate_on_cpu
from engines.checkpoint import Checkpoint
from engines.families import DEFAULT_GROUP_PARAMETERS
from engines.families.base import AS_SUGGESTED, ImageOptions
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.layers.weights import TensorSource
from engines.onnx.builder import Graph
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import PrecisionPlan
from engines.targets.tensorrt import precision_to_emit

_LAST_WITH_CALIBRATORS = version_number("10.99.99")


def calibrate(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    images: CalibrationImages,
    caches: Path,
    tensorrt_version: str,
    *,
    int8_route: str | None = None,
    group_parameters: int = DEFAULT_GROUP_PARAMETERS,
    image: ImageOptions = AS_SUGGESTED,
    schema: ReportSchema = BRIDGE,
) -> tuple[Path, ...]:
    """Fill the directory ``caches`` for a build of the target ``tensorrt`` by that version; returns what is there.

    Caches that are there and fresh are kept, so that an interrupted run goes on. The graphs and what passes between
    them lie in the directory meanwhile: as much as the model takes in float16, and twice the hidden states.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not supported.
        CalibrationError: an activation is not finite, a cache there is of something else, or the directory cannot be
            written.
        SourceError: there is no image.
    """
    plan = plan_bundle(
        checkpoint, precisions, "tensorrt", group_parameters=group_parameters, image=image, schema=schema
    )
    precisions = plan.precisions
    if precisions.has_int8:
        warn_where_few(images)
    route = int8_route or default_route(tensorrt_version)
    written: list[Path] = []
    try:
        caches.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphs-", dir=caches)))
            runner = stack.enter_context(open_model_runner(checkpoint, plan.model, images, caches))
            source: TensorSource = checkpoint
            if precisions.is_calibrated:
                source = stack.enter_context(
                    open_calibrated(checkpoint, precisions, images, caches, plan.model.image, schema)
                )
            for part in tqdm(plan.parts, desc="calibrating", unit="component", disable=None):
                if part.emit is None:
                    continue
                precision = precisions.components[part.role]
                path = folder / f"{part.name}.onnx"
                with Graph(path) as graph:
                    part.emit(graph, TensorRTLowering(), source, precision_to_emit(precision, route))
                    graph.save()
                int8 = precision.int8
                written.append(caches / f"{part.name}.overflow")
                find_overflow(runner, path, written[-1], stay=int8 is not None)
                if int8:
                    written.append(caches / f"{part.name}.cache")
                    calibrate_on_cpu(runner, path, written[-1], tensorrt_version, int8.range_method)
    except EdgeRuntimeError:
        raise
    except OSError as error:
        raise CalibrationError(f"cannot write to {caches}: {error}; make room there, or name another place") from error
    return tuple(written)


def default_route(tensorrt_version: str) -> str:
    """How that TensorRT makes INT8 unless told otherwise: by a calibrator up to 10, by nodes in the graph from then on.

    Raises:
        CalibrationError: there is no such version.
    """
    return "implicit" if version_number(tensorrt_version) <= _LAST_WITH_CALIBRATORS else "explicit"
