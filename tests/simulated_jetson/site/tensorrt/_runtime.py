"""The runtime's half of the double: engines that ONNX Runtime executes at the device addresses they are given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from . import _cuda
from ._builder import COMPUTE_CAPABILITY, IHostMemory
from ._network import complain, shape_of, structure_of, type_of
from ._plan import Plan, container_of, plan_of
from ._real import ENUMS, VERSION, real

_MODE = ENUMS["TensorIOMode"]
_STRATEGY = ENUMS["ExecutionContextAllocationStrategy"]
_ALIGNMENT_BYTES = 256
_PERSISTENT_BYTES = 4096  # what a context keeps for itself, whoever brings the scratch


@real
class IGpuAllocator:
    """Where device memory comes from; the application derives from it."""

    def __init__(self) -> None:
        pass

    def allocate(self, size: int, alignment: int, flags: int) -> int:
        raise NotImplementedError('Tried to call pure virtual function "IGpuAllocator::allocate"')

    def deallocate(self, memory: int) -> bool:
        raise NotImplementedError('Tried to call pure virtual function "IGpuAllocator::deallocate"')

    def reallocate(self, address: int, alignment: int, new_size: int) -> int:
        return 0

    def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
        return self.allocate(size, alignment, flags)

    def deallocate_async(self, memory: int, stream: int) -> bool:
        return self.deallocate(memory)


class _DeviceMemory:
    """A block from the application's allocator, or from CUDA; given back with its last user."""

    def __init__(self, allocator: Any, size: int) -> None:
        self._allocator = allocator
        self.address = 0
        try:  # a callback's exceptions end in C++, which then sees no memory
            self.address = int(allocator.allocate(size, _ALIGNMENT_BYTES, 0) if allocator else _cuda.allocate(size))
        except Exception as error:
            print(f"[ERROR] Exception caught in allocate(): {error}")

    def __del__(self) -> None:
        if self.address:
            self._allocator.deallocate(self.address) if self._allocator else _cuda.free(self.address)


@real
class Runtime:
    """Loads engines."""

    gpu_allocator: Any
    max_threads: int

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._gpu_allocator: Any = None

    @property
    def logger(self) -> Any:
        return self._logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        found = plan_of(serialized_engine)
        if found is None:
            complain(self._logger, "Error Code 1: Serialization (magic tag does not match)")
            return None
        plan, model = found
        if plan.version != VERSION or COMPUTE_CAPABILITY not in plan.compute_capability.split(","):
            complain(
                self._logger,
                f"Error Code 6: the engine was built by TensorRT {plan.version} for compute capability "
                f"{plan.compute_capability}, this is {VERSION} on {COMPUTE_CAPABILITY}",
            )
            return None
        allocator = getattr(self, "gpu_allocator", None)
        weight_bytes = plan.weight_copies * sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        weights = _DeviceMemory(allocator, max(weight_bytes, 1))
        if not weights.address:
            complain(self._logger, "Error Code 2: OutOfMemory (no further information)")
            return None
        return ICudaEngine(plan, model, weights, self._logger)


def _quantize_in_float32(model: onnx.ModelProto) -> None:
    """Have what is rounded and its scale widened first: before 1.28, ONNX Runtime is a step off in float16 at times."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            wide = [f"{node.output[0]}.{name}" for name in ("x", "scale")]
            nodes += [helper.make_node("Cast", [node.input[i]], [wide[i]], to=onnx.TensorProto.FLOAT) for i in range(2)]
            node.input[:2] = wide
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@real
class ICudaEngine:
    """A component that can be executed."""

    def __init__(self, plan: Plan, model: onnx.ModelProto, weights: _DeviceMemory, logger: Any) -> None:
        self._plan, self._weights, self._logger = plan, weights, logger
        values = [*model.graph.input, *model.graph.output]
        self._inputs = {value.name for value in model.graph.input}
        self._values = {value.name: value for value in values}
        self._structure = structure_of(model)
        options = ort.SessionOptions()
        # TensorRT computes with activations as they are; ONNX Runtime would round them to 8 bits before 4-bit weights.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        _quantize_in_float32(model)
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        kind = "INPUT" if name in self._inputs else "OUTPUT" if name in self._values else "NONE"
        return getattr(_MODE, kind)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self._values[name])

    def get_tensor_dtype(self, name: str) -> Any:
        return type_of(self._values[name].type.tensor_type.elem_type)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan.profiles)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shape = self.get_tensor_shape(name)
        return list(self._plan.profiles[profile_index].get(name, (shape, shape, shape)))

    @property
    def device_memory_size_v2(self) -> int:
        return max(self.get_device_memory_size_for_profile_v2(i) for i in range(self.num_optimization_profiles))

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Four times what goes in and out at the largest shapes."""
        largest = {name: self.get_tensor_profile_shape(name, profile_index)[2] for name in self._inputs}
        sizes = _free_sizes(self, largest)
        shapes = {name: _resolved(value, sizes) for name, value in self._values.items()}
        elements = sum(abs(math.prod(shape)) for name, shape in shapes.items() if not name.startswith("past_"))
        return 4 * 4 * elements

    def create_execution_context(self, strategy: Any = _STRATEGY.STATIC) -> IExecutionContext | None:
        context = IExecutionContext(self)
        if strategy == _STRATEGY.STATIC:
            context._scratch_bytes = self.device_memory_size_v2
            context._own_scratch = _DeviceMemory(self._weights._allocator, context._scratch_bytes)
            context._scratch = context._own_scratch.address
        if not context._persistent.address or context._scratch == 0:
            complain(self._logger, "Error Code 2: OutOfMemory")
            return None
        return context

    def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
        return self.create_execution_context(_STRATEGY.USER_MANAGED)

    def serialize(self) -> IHostMemory:
        return IHostMemory(container_of(self._plan, self._structure))


@real
class IExecutionContext:
    """Shapes and addresses of an execution."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._persistent = _DeviceMemory(engine._weights._allocator, _PERSISTENT_BYTES)
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch: int | None = None
        self._scratch_bytes = 0
        self._calls = _cuda.Calls()

    @property
    def engine(self) -> ICudaEngine:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refuse(f"there is no optimization profile {profile_index}")
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(shape)
        if name not in self._engine._inputs:
            return self._refuse(f"there is no input {name}")
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(wanted) != len(smallest) or not all(
            a <= b <= c for a, b, c in zip(smallest, wanted, largest, strict=True)
        ):
            return self._refuse(
                f"the shape {wanted} of {name} is not between {smallest} and {largest} of profile {self._profile}"
            )
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _resolved(self._engine._values[name], _free_sizes(self._engine, self._input_shapes()))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._values:
            return self._refuse(f"there is no tensor {name}")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch, self._scratch_bytes = int(memory), int(size)

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if -1 in self._input_shapes()[name]]

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, addresses = self._engine, dict(self._addresses)
        if unspecified := self.infer_shapes():
            return self._refuse(f"the shape of {unspecified[0]} is not specified")
        if missing := sorted(engine._values.keys() - addresses.keys()):
            return self._refuse(f"the address of {missing[0]} is not set")
        if self._scratch is None or self._scratch_bytes < engine.get_device_memory_size_for_profile_v2(self._profile):
            return self._refuse(f"{self._scratch_bytes} bytes of scratch are not enough")
        if not _cuda.holds(self._scratch, self._scratch_bytes):
            return self._refuse("the scratch is not device memory")
        shapes = {name: self.get_tensor_shape(name) for name in engine._values}
        logger = engine._logger
        _cuda.complaints[:] = [lambda message: complain(logger, f"Cuda Runtime ({message})")]
        return self._calls.enqueue(stream_handle, lambda: _execute(engine, shapes, addresses))

    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._shapes.get(name, self._engine.get_tensor_shape(name)) for name in self._engine._inputs}

    def _refuse(self, message: str) -> bool:
        complain(self._engine._logger, f"IExecutionContext: Error Code 3: {message}")
        return False


def _execute(engine: ICudaEngine, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
    binding = engine._session.io_binding()
    computed = [name for name, shape in shapes.items() if -1 in shape]  # whose sizes no input's dimension names
    for name, value in engine._values.items():
        if name in computed:
            binding.bind_output(name, "cpu")
            continue
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = _cuda.array_at(addresses[name], shapes[name], dtype)  # refuses what is not the device's
        bind = binding.bind_input if name in engine._inputs else binding.bind_output
        bind(name, "cpu", 0, np.dtype(dtype).type, shapes[name], array.ctypes.data)
    engine._session.run_with_iobinding(binding)
    outputs = [value.name for value in engine._session.get_outputs()]
    for name in computed:
        found = binding.get_outputs()[outputs.index(name)].numpy()
        _cuda.array_at(addresses[name], found.shape, found.dtype)[...] = found


def _free_sizes(engine: ICudaEngine, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """What the names of free dimensions stand for, given the inputs' shapes."""
    return {
        size.dim_param: shapes[name][axis]
        for name in engine._inputs
        for axis, size in enumerate(engine._values[name].type.tensor_type.shape.dim)
        if size.dim_param
    }


def _resolved(value: onnx.ValueInfoProto, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes.get(d.dim_param, -1) if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim)
