"""Engines of TensorRT: what they are bound to, the contexts that execute them, and recordings of both.

One context an engine serves every binding that is called on its own, configured anew when another binding's turn comes.
What is recorded has contexts of its own, as a CUDA graph holds on to their state.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np

from edge_runtime.backends.base import Memory, Run
from edge_runtime.backends.tensorrt.cuda import Device, PrivateMemory
from edge_runtime.backends.tensorrt.cuda_graph import CudaGraph
from edge_runtime.backends.tensorrt.library import Library
from edge_runtime.errors import BackendError, BudgetExceededError

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)


class TensorRTEngine:
    """One engine and what executes it; see :class:`edge_runtime.backends.base.Engine`."""

    def __init__(self, library: Library, engine: trt.ICudaEngine, name: str) -> None:
        trt = library.trt
        self._library = library
        self._engine = engine
        self._name = name
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._outputs = [name for name in names if not is_input[name]]
        self._dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._executors: list[_Executor] = []
        self._executor: _Executor | None = None
        library.need_scratch(engine.device_memory_size_v2)

    def bind(self, inputs: Mapping[str, Memory], outputs: Mapping[str, Memory]) -> Run:
        """See :class:`edge_runtime.backends.base.Engine`."""
        engine = self._open_engine()
        for kind, given, known in (("inputs", inputs, self._inputs), ("outputs", outputs, self._outputs)):
            if set(given) != set(known):
                raise BackendError(f"{self._name} has the {kind} {sorted(known)}, and is given {sorted(given)}")
        for name, memory in {**inputs, **outputs}.items():
            if memory.dtype != self._dtypes[name]:
                raise BackendError(f"{self._name}: {name} is {self._dtypes[name]}, and is given {memory.dtype}")
        profile = self._profile_of(engine, inputs)
        return Binding(self, profile, dict(inputs), dict(outputs))

    def open_executor(self) -> _Executor:
        """A new one, which lasts as long as the engine."""
        library, trt = self._library, self._library.trt
        with library.device.current():
            scratch = library.scratch()
            scratch_is_ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._open_engine().create_execution_context(scratch_is_ours)
            if context is None:
                raise library.failure(f"{self._name} cannot be executed")
            context.set_device_memory(library.device.address_of(scratch), scratch.shape[0])
        opened = _Executor(library, context, scratch, self._name)
        self._executors.append(opened)
        return opened

    @property
    def executor(self) -> _Executor:
        """The one for bindings that are called on their own."""
        self._executor = self._executor or self.open_executor()
        return self._executor

    def close_executor(self, executor: _Executor) -> None:
        """Give one back before the engine is."""
        with self._library.device.current():
            if executor in self._executors:  # else the engine was closed before
                self._executors.remove(executor)
                executor.close()

    def close(self) -> None:
        """Give the engine's memory back."""
        with self._library.device.current():
            while self._executors:
                self._executors.pop().close()
            self._engine = self._executor = None

    def _open_engine(self) -> trt.ICudaEngine:
        if self._engine is None:
            raise BackendError(f"{self._name} is closed")
        return self._engine

    def _profile_of(self, engine: trt.ICudaEngine, inputs: Mapping[str, Memory]) -> int:
        """The last profile that has these shapes: narrow ones (decode) come after wide ones (prefill)."""
        misfits = []
        for profile in reversed(range(engine.num_optimization_profiles)):
            for name, memory in inputs.items():
                smallest, _, largest = map(tuple, engine.get_tensor_profile_shape(name, profile))
                if len(smallest) != len(memory.shape) or not all(
                    low <= size <= high for low, size, high in zip(smallest, memory.shape, largest, strict=True)
                ):
                    misfits.append(f"{name} from {smallest} to {largest}, not {memory.shape}")
                    break
            else:
                return profile
        raise BackendError(
            f"{self._name} was built for {', or '.join(misfits)}; rebuild the bundle with a larger --context"
        )


class Binding:
    """A call of an engine with everything fixed that it reads and writes."""

    def __init__(
        self, owner: TensorRTEngine, profile: int, inputs: Mapping[str, Memory], outputs: Mapping[str, Memory]
    ) -> None:
        self.owner = owner
        self.profile = profile
        self.inputs = inputs
        self.outputs = outputs

    def __call__(self) -> None:
        """Put one execution on the stream."""
        self.owner.executor.run(self)


class _Executor:
    """An execution context, the scratch that it computes in, and the binding that it is configured for."""

    def __init__(self, library: Library, context: trt.IExecutionContext, scratch: PrivateMemory, name: str) -> None:
        self._library = library
        self._context = context
        self._scratch = scratch  # kept, where a larger engine that came later made the others use another
        self._name = name
        self._configured: ref[Binding] | None = None  # weakly, as a binding holds on to memory

    def run(self, binding: Binding) -> None:
        """Put one execution on the stream."""
        if self._context is None:
            raise BackendError(f"{self._name} is closed")
        with self._library.device.current():
            stream = self._library.device.stream
            if self._configured is None or self._configured() is not binding:
                self._configure(binding, stream)
            if not self._context.execute_async_v3(stream):
                raise self._library.failure(f"{self._name} failed")

    def close(self) -> None:
        """Give its memory back."""
        self._context = self._configured = None

    def _configure(self, binding: Binding, stream: int) -> None:
        context, device = self._context, self._library.device
        self._configured = None
        done = [context.set_optimization_profile_async(binding.profile, stream)]
        done += [context.set_input_shape(name, memory.shape) for name, memory in binding.inputs.items()]
        bound = {**binding.inputs, **binding.outputs}
        done += [context.set_tensor_address(name, device.address_of(memory)) for name, memory in bound.items()]
        if not all(done):
            raise self._library.failure(f"{self._name} cannot be bound")
        self._configured = ref(binding)


class Recording:
    """Bindings that run one after another; recorded at the second call, as contexts must have run before.

    Where there is no memory for contexts of its own, or no graph can be made, each binding is run as it is.
    """

    def __init__(self, device: Device, bindings: Sequence[Binding]) -> None:
        self._device = device
        self._graph: CudaGraph | None = None
        self._has_run = False
        self._is_recordable = True
        self._own = ExitStack()  # what nothing else uses
        self._runs: list[Run] = list(bindings)
        try:
            self._runs = self._open_own(bindings)
        except BudgetExceededError as error:
            self._give_up(error)

    def __call__(self) -> None:
        """Put all of it on the stream."""
        if self._graph is None and self._has_run and self._is_recordable:
            self._record()
        if self._graph is None:
            self._enqueue()
            self._has_run = True
        else:
            with self._device.current():
                self._graph.launch()

    def close(self) -> None:
        """Forget the graph, and give back what it ran in."""
        if self._graph is not None:
            with self._device.current():
                self._graph.close()
        self._runs.clear()
        self._own.close()

    def __del__(self) -> None:
        self.close()

    def _enqueue(self) -> None:
        for run in self._runs:
            run()

    def _record(self) -> None:
        self._device.synchronize()
        try:
            with self._device.current():
                self._graph = CudaGraph(self._device.stream, self._enqueue)
        except BackendError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.info("engines are started one by one, as no CUDA graph can be made of them: %s", error)
        self._is_recordable = False

    def _open_own(self, bindings: Sequence[Binding]) -> list[Run]:
        """Calls of the bindings, each in an executor of its own."""
        with ExitStack() as stack:  # gives back what was opened if the rest fails
            runs: list[Run] = []
            for binding in bindings:
                executor = binding.owner.open_executor()
                stack.callback(binding.owner.close_executor, executor)
                runs.append(partial(executor.run, binding))
            self._own = stack.pop_all()
            return runs
