"""The builder's half of the double: configuration, profiles, timing caches, and the rules that engines are built by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto

from ._calibration import rounded_to_int8, scales_from_calibrator
from ._network import DataType, INetworkDefinition, complain, shape_of
from ._plan import Plan, container_of
from ._real import ENUMS, NUMBER, VERSION, real

COMPUTE_CAPABILITY = os.environ.get("SIMULATED_COMPUTE_CAPABILITY", "8.7")
Flag = ENUMS["BuilderFlag"]
_TIMING_MAGIC = f"simulated timings of TensorRT {VERSION}, sm{COMPUTE_CAPABILITY}\n".encode()
_PRECISION_FLAGS = ("FP16", "BF16", "INT8", "INT4", "FP8")
_CONSTRAINING_FLAGS = ("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")


class IHostMemory(bytes):
    """What the library hands over: a buffer."""

    @property
    def nbytes(self) -> int:
        return len(self)

    @property
    def dtype(self) -> Any:
        return DataType.INT8


@real
class IOptimizationProfile:
    """Shapes that an engine is built for."""

    extra_memory_target: float

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.extra_memory_target = 1.0

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = (tuple(min), tuple(opt), tuple(max))
        ranks = {len(shape) for shape in shapes}
        if len(ranks) != 1 or not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise RuntimeError(f"{input}: {shapes} are no smallest, likeliest and largest shape")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[tuple[int, ...]]:
        return list(self._shapes.get(input, ()))


@real
class ITimingCache:
    """Measured times of kernels; here, how many engines were built with it."""

    def __init__(self, content: bytes) -> None:
        self._is_valid = not content or content.startswith(_TIMING_MAGIC)
        self._engines = int(content[len(_TIMING_MAGIC) :] or b"0") if self._is_valid else 0

    def serialize(self) -> IHostMemory:
        return IHostMemory(_TIMING_MAGIC + str(self._engines).encode())

    def reset(self) -> bool:
        self._engines = 0
        return True


@real
class IProgressMonitor:
    """Told how far a build is; the application derives from it."""

    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


@real
class IBuilderConfig:
    """How to build."""

    progress_monitor: Any
    int8_calibrator: Any
    builder_optimization_level: int
    profiling_verbosity: Any
    max_aux_streams: int
    num_compute_capabilities: int

    def __init__(self) -> None:
        self._flags: set[Any] = set()
        self._profiles: list[IOptimizationProfile] = []
        self._calibration_profile: IOptimizationProfile | None = None
        self._timing_cache: ITimingCache | None = None
        self._pools: dict[Any, int] = {}
        self._capabilities: dict[int, str] = {}

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self._flags)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(Flag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(Flag(flag))

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        name = ENUMS["ComputeCapability"](compute_capability).name
        self._capabilities[index] = f"{name[2:-1]}.{name[-1]}"
        return 0 <= index < self.num_compute_capabilities

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[ENUMS["MemoryPoolType"](pool)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return True

    def get_calibration_profile(self) -> IOptimizationProfile | None:
        return self._calibration_profile

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._is_valid:
            self._timing_cache = cache
        return cache._is_valid

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing_cache


@real
class Builder:
    """Makes engines of networks."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        model = network._model
        if model is None:
            complain(self._logger, "Network must have at least one output")
            return None
        problems = [*_type_problems(network, config), *_profile_problems(model, config)]
        if problems:
            complain(self._logger, problems[0])
            return None
        monitor = getattr(config, "progress_monitor", None)
        steps = network.num_layers
        if monitor is not None:
            monitor.phase_start("Building engine", None, steps)
            interrupted = not all(monitor.step_complete("Building engine", step) for step in range(steps))
            monitor.phase_finish("Building engine")
            if interrupted:
                return None
        int8_layers: tuple[str, ...] = ()
        try:
            if "INT8" in _names(config) and not _is_explicit(model):
                scales = scales_from_calibrator(config.int8_calibrator, model, _calibration_shapes(model, config))
                model, int8_layers = rounded_to_int8(model, scales, _kept_layers(network, config))
        except ValueError as error:
            complain(self._logger, f"Calibration failure occurred: {error}")
            return None
        if config._timing_cache is not None:
            config._timing_cache._engines += 1
        shapes = tuple(dict(profile._shapes) for profile in config._profiles) or ({},)
        capabilities = ",".join(config._capabilities.values()) or COMPUTE_CAPABILITY
        copies = 1 + sum(profile.extra_memory_target > 0 for profile in config._profiles[1:])
        plan = Plan(VERSION, capabilities, network.name, shapes, copies, int8_layers)  # type: ignore[arg-type]
        return IHostMemory(container_of(plan, model))


def _names(config: IBuilderConfig) -> set[str]:
    return {flag.name for flag in config._flags}


def _is_explicit(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def _is_strongly_typed(network: INetworkDefinition) -> bool:
    flags = ENUMS["NetworkDefinitionCreationFlag"]
    if "STRONGLY_TYPED" not in flags.__members__:
        return True  # TensorRT 11 knows no others
    return network.get_flag(flags["STRONGLY_TYPED"]) or int(NUMBER.partition(".")[0]) >= 11


def _type_problems(network: INetworkDefinition, config: IBuilderConfig) -> Iterator[str]:
    set_flags = _names(config)
    constrained = [layer.name for layer in network._layers if layer._precision is not None]
    assert network._model is not None
    if _is_strongly_typed(network):
        for flag in [*_PRECISION_FLAGS, *_CONSTRAINING_FLAGS]:
            if flag in set_flags:
                yield f"{flag} must not be set for a strongly typed network"
        if constrained:
            yield f"the precision of {constrained[0]} must not be set in a strongly typed network"
    else:
        types = {TensorProto.DataType.Name(t.data_type) for t in network._model.graph.initializer}
        if "INT4" in types:
            yield "INT4 weights need a strongly typed network"
        if {"FLOAT16", "BFLOAT16"} & types and not {"FP16", "BF16"} & set_flags:
            yield "the network has half precision weights, and the FP16 flag is not set"
        is_implicit = "INT8" in set_flags and not _is_explicit(network._model)
        if is_implicit and getattr(config, "int8_calibrator", None) is None:
            yield "INT8 is set, the network has no quantization nodes, and there is no calibrator"


def _profile_problems(model: onnx.ModelProto, config: IBuilderConfig) -> Iterator[str]:
    free = {value.name: shape_of(value) for value in model.graph.input if -1 in shape_of(value)}
    if free and not config._profiles:
        yield f"{next(iter(free))} has dynamic dimensions, and no optimization profile is defined"
    for profile in config._profiles:
        for name, shape in free.items():
            three = profile._shapes.get(name)
            if three is None:
                yield f"{name} has dynamic dimensions, and an optimization profile says nothing about it"
            elif any(len(s) != len(shape) for s in three) or any(
                fixed not in (-1, size) for s in three for fixed, size in zip(shape, s, strict=True)
            ):
                yield f"an optimization profile gives {name} {three}, and the network says {shape}"


def _calibration_shapes(model: onnx.ModelProto, config: IBuilderConfig) -> dict[str, tuple[int, ...]]:
    profile = config._calibration_profile
    shapes = {value.name: shape_of(value) for value in model.graph.input}
    if profile is None and any(-1 in shape for shape in shapes.values()):
        raise ValueError("the network has dynamic shapes and no calibration profile")
    likeliest = {name: three[1] for name, three in profile._shapes.items()} if profile else {}
    return {name: likeliest.get(name, shape) for name, shape in shapes.items()}


def _kept_layers(network: INetworkDefinition, config: IBuilderConfig) -> set[str]:
    """Layers that must not become INT8. A layer's precision binds only where the configuration says so."""
    if not _names(config) & {*_CONSTRAINING_FLAGS}:
        return set()
    return {layer.name for layer in network._layers if layer.precision_is_set and layer.precision != DataType.INT8}
