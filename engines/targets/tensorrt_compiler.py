"""From an ONNX file to an engine file through TensorRT's builder; knows flags, profiles and logs, and no model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_runtime.backends.tensorrt.callbacks import open_logger
from edge_runtime.bundle.manifest import FileEntry
from edge_runtime.errors import BackendError
from engines.onnx.builder import HashedFile

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # the smallest, likeliest and largest shape of every free input
# What the implicit route does with a builder, a network, and its configuration.
Configure = Callable[[Any, Any, Any], None]

_log = logging.getLogger(__name__)

# What a kernel may use beside its inputs and outputs. Prefill's attention asks for 0.5 GB at 2048 tokens of a 13B
# model; a machine whose memory is shared has better uses for more.
_WORKSPACE_BYTES = 1 << 30


class Compiler:
    """TensorRT's builder, for one kind of machine.

    ``compute_capabilities`` are the GPUs to build for; empty for the one that is there. The timing cache, where there
    is one, is read before and written after every engine.
    """

    def __init__(self, trt: Any, compute_capabilities: Sequence[str] = (), timing_cache: Path | None = None) -> None:
        self._trt = trt
        self._compute_capabilities = compute_capabilities
        self._timing_cache = timing_cache
        self._logger = open_logger(trt)

    def compile(
        self, graph: Path, engine: Path, profiles: Sequence[Profile], configure: Configure | None = None
    ) -> FileEntry:
        """Compile ``graph`` to the file ``engine``, for shapes inside one of ``profiles``.

        Every type is as the graph says (a strongly typed network), unless ``configure`` is given, which may then set
        the flags of a network whose types TensorRT chooses.

        Raises:
            BackendError: TensorRT refuses the graph, or builds no engine.
        """
        trt = self._trt
        self._logger.complaints.clear()
        builder = trt.Builder(self._logger)
        network = builder.create_network(0 if configure else _strongly_typed(trt))
        self._parse(trt.OnnxParser(network, self._logger), graph)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
        if self._compute_capabilities:
            self._aim(config)
        for index, profile in enumerate(profiles):
            config.add_optimization_profile(make_profile(builder, profile, shares_weights=index > 0))
        if configure:
            configure(builder, network, config)
        monitor = open_monitor(trt, graph.stem)
        config.progress_monitor = monitor
        timing = self._attach_timing_cache(config)
        plan = builder.build_serialized_network(network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if plan is None:
            raise BackendError(f"{self._name} builds no engine of {graph.stem}: {self._reason()}")
        if timing is not None:
            self._keep(timing)
        file = HashedFile(engine)
        try:
            file.write(memoryview(plan))
        finally:
            entry = file.close()
        return entry

    @property
    def _name(self) -> str:
        return f"TensorRT {self._trt.__version__}"

    def _parse(self, parser: Any, graph: Path) -> None:
        if parser.parse_from_file(str(graph)):
            return
        error = parser.get_error(0) if parser.num_errors else None
        where, why = (_node_of(error), error.desc()) if error else ("the file", self._reason())
        raise BackendError(
            f"{self._name} does not take {where} of {graph.name}: {why.strip()}; choose another --recipe, "
            "or update TensorRT"
        )

    def _aim(self, config: Any) -> None:
        trt = self._trt
        if not hasattr(trt, "ComputeCapability"):  # only TensorRT for RTX has it
            raise BackendError(f"{self._name} builds for the GPU that is there and for no other; build on that machine")
        config.num_compute_capabilities = len(self._compute_capabilities)
        for index, capability in enumerate(self._compute_capabilities):
            name = f"SM{capability.replace('.', '')}"
            known = [known for known in dir(trt.ComputeCapability) if known.startswith("SM")]
            if name not in known:
                raise BackendError(
                    f"{self._name} builds for no GPU of compute capability {capability}; it builds for "
                    f"{', '.join(sorted(f'{k[2:-1]}.{k[-1]}' for k in known))}"
                )
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)

    def _attach_timing_cache(self, config: Any) -> Any:
        if self._timing_cache is None:
            return None
        content = self._timing_cache.read_bytes() if self._timing_cache.is_file() else b""
        cache = config.create_timing_cache(content)
        if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another GPU, or damaged: begin anew
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _keep(self, timing: Any) -> None:
        """Write the timing cache in one step; it only saves time, so a place that can't be written is no error."""
        assert self._timing_cache is not None
        temporary = self._timing_cache.with_suffix(".new")
        try:
            self._timing_cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(memoryview(timing.serialize()))
            os.replace(temporary, self._timing_cache)
        except OSError as error:
            _log.warning("the timing cache %s cannot be written: %s", self._timing_cache, error)

    def _reason(self) -> str:
        return self._logger.complaints[-1] if self._logger.complaints else "it gives no reason; -v shows its log"


def make_profile(builder: Any, profile: Profile, *, shares_weights: bool = False) -> Any:
    """TensorRT's form of ``profile``; one that ``shares_weights`` takes them as the first profile has laid them out."""
    made = builder.create_optimization_profile()
    if shares_weights:
        made.extra_memory_target = 0.0
    for name, (smallest, likeliest, largest) in profile.items():
        made.set_shape(name, smallest, likeliest, largest)
    return made


def open_monitor(trt: Any, name: str) -> Any:
    """An ``IProgressMonitor`` that draws the outermost phase on stderr, and ends a build at Ctrl-C.

    ``failure`` is what ended the build, as no exception may leave a callback of C++.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._kept():
                if not parent_phase:
                    bar = tqdm(total=num_steps, desc=f"{name}: {phase_name}", disable=None, leave=False)
                    self._bars[phase_name] = bar

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._kept():
                if phase_name in self._bars:
                    self._bars[phase_name].update(step + 1 - self._bars[phase_name].n)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            with self._kept():
                if phase_name in self._bars:
                    self._bars.pop(phase_name).close()

        @contextmanager
        def _kept(self) -> Iterator[None]:
            try:
                yield
            except BaseException as failure:
                self.failure = self.failure or failure

    return Monitor()


def _strongly_typed(trt: Any) -> int:
    """The flag, where a version has it: TensorRT 11 knows no other networks."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _node_of(error: Any) -> str:
    if hasattr(error, "node_name"):
        return f"the node {error.node_name()!r} ({error.node_operator()})"
    return f"node {error.node()}"
