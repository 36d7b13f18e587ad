"""Whether a bundle's engines load and run on this machine, one after another; judges no answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Array, Backend
from edge_runtime.bundle.manifest import Component, Manifest, NativeImage, TensorSpec
from edge_runtime.bundle.opening import Bundle
from edge_runtime.errors import BackendError, BuildError, BundleTargetError, MissingDependencyError

_RUN_HERE = ("onnxruntime", "onnxruntime-amx")  # targets whose engines every machine may run that built them
_SIZES = {"T": 2, "C": 8}  # tokens of a step, and positions of the cache
_OTHER_SIZE = 2
_VALUES = {"seqlens_k": 1, "total_sequence_length": 2}  # the two tokens are all there is

_log = logging.getLogger(__name__)


def try_engines(bundle: Bundle) -> None:
    """Load every engine, run it once on small numbers, and close it before the next.

    Engines for a machine that this one is not are left alone, and a warning says so.

    Raises:
        BuildError: an engine does not load, does not run, or gives a number that is not finite.
    """
    manifest = bundle.manifest
    if manifest.target not in _RUN_HERE:
        _log.warning("engines for %s were not run here; edge-engines verify BUNDLE runs them there", manifest.target)
        return
    try:
        backend = open_backend(manifest)
    except (BundleTargetError, MissingDependencyError) as error:
        _log.warning("engines for %s were not run here: %s", manifest.target, error)
        return
    try:
        for component in manifest.components:
            if component.role != "embedding":
                _try_component(backend, bundle, component)
    except (BundleTargetError, MissingDependencyError) as error:
        _log.warning("engines for %s were not run here: %s", manifest.target, error)
    finally:
        backend.close()


def _try_component(backend: Backend, bundle: Bundle, component: Component) -> None:
    sizes = _SIZES | _picture_sizes(bundle.manifest, component)
    inputs = {spec.name: _filled(backend, spec, sizes) for spec in component.inputs}
    outputs = {
        spec.name: inputs[past]
        if (past := spec.name.replace("present_", "past_")) in inputs
        else _filled(backend, spec, sizes)
        for spec in component.outputs
    }
    try:
        engine = backend.load(bundle.file(component.files[0]))
        try:
            engine.bind(inputs, outputs)()
            backend.synchronize()
        finally:
            engine.close()
    except BackendError as error:
        raise BuildError(
            f"{component.name} was written and does not run: {error}; the bundle was not finished, and what is written "
            "stays in its .partial directory"
        ) from error
    if wrong := [name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]:
        raise BuildError(f"{component.name} was written and gives {wrong[0]} that is not finite; choose another recipe")


def _picture_sizes(manifest: Manifest, component: Component) -> dict[str, int]:
    """Patches and tokens of the smallest picture, for components that take it as a whole."""
    image = manifest.image
    if not isinstance(image, NativeImage) or component.role not in ("vision_encoder", "connector"):
        return {}
    tokens = min(map(math.prod, image.grids))
    return {"P": tokens * image.merge**2, "T": tokens}


def _filled(backend: Backend, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    shape = [size if isinstance(size, int) else sizes.get(size, _OTHER_SIZE) for size in spec.shape]
    array = backend.shared(shape, spec.dtype)
    if spec.name in _VALUES:
        array[...] = _VALUES[spec.name]
    elif array.dtype.kind == "f" and "past_" not in spec.name:
        array[...] = np.linspace(-1, 1, array.size).reshape(shape)
    return array
