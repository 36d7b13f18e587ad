"""From a component's graph to its INT8 scales, by the cache where it is fresh; the whole of it without a GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.errors import CalibrationError
from engines.calibration.activation_runner import ActivationRunner
from engines.calibration.cache import (
    CacheBinding,
    load_cache,
    save_cache,
    scales_from_text,
    text_from_scales,
    version_number,
)
from engines.layers.ptq4vit import ABOVE, BELOW
from engines.onnx.tensors import load_graph, sha256_of_graph, tensors_in_products
from engines.quantize.activation_ranges import RANGE_METHODS, RangeMethod, scale_of_range, twin_ranges
from engines.quantize.histogram import Histogram

_log = logging.getLogger(__name__)


def binding_of(runner: ActivationRunner, graph: Path, tensorrt_version: str, method: str = "entropy") -> CacheBinding:
    """What a cache of the component in ``graph``, which is up next, holds for; of a version, the first three numbers.

    Raises:
        CalibrationError: there is no such version, or the graph cannot be read.
    """
    version_number(tensorrt_version)
    version = ".".join(tensorrt_version.split(".")[:3])
    return CacheBinding(version, sha256_of_graph(graph), runner.data_sha256, method)


def calibrate_on_cpu(
    runner: ActivationRunner,
    graph: Path,
    cache: Path,
    tensorrt_version: str,
    method: str = "entropy",
    *,
    stay: bool = False,
) -> dict[str, float]:
    """Scales of the activations on both sides of every product in ``graph`` that is rounded, by name.

    What was taken apart to be rounded by two scales gets them where they leave less squared error than one would; the
    log says where.

    They are read from ``cache`` where it is fresh, and then nothing is run; written there otherwise. Such a cache is
    what TensorRT reads too. The runner goes behind the graph, unless it is to ``stay`` before it.

    Raises:
        CalibrationError: the cache is stale or damaged, the graph is not up next, or an activation is not finite.
        SourceError: there is no image to calibrate on.
    """
    if method not in RANGE_METHODS:
        raise CalibrationError(f"there is no method {method!r}; there are {', '.join(RANGE_METHODS)}")
    binding = binding_of(runner, graph, tensorrt_version, method)
    text = load_cache(cache, binding)
    if text is None:
        look = runner.look if stay else runner.through
        observed = look(graph, histograms_of=tensors_in_products(load_graph(graph)))
        ranges = _find_ranges(observed.histograms, RANGE_METHODS[method])
        scales = {name: scale_of_range(largest) for name, largest in ranges.items()}
        text = text_from_scales(scales, tensorrt_version)
        save_cache(cache, text, binding)
    elif not stay:
        runner.skip(graph)
    return scales_from_text(text)


def _find_ranges(histograms: Mapping[str, Histogram], find_range: RangeMethod) -> dict[str, float]:
    """The range of every tensor; those of two sides together."""
    ranges = {name: find_range(seen) for name, seen in histograms.items() if not name.endswith((BELOW, ABOVE))}
    for below in (name for name in histograms if name.endswith(BELOW)):
        name = below.removesuffix(BELOW)
        sides = (below, name + ABOVE)
        found, left = twin_ranges(histograms[sides[0]], histograms[sides[1]], find_range)
        ranges.update(zip(sides, found, strict=True))
        if left < 1:
            _log.info("two peaks at %s: two scales leave %.3g of one's squared error", name, left)
        else:
            _log.warning("no two peaks at %s: two scales are no better than one, which both sides get", name)
    return ranges
