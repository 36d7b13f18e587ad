"""Every TensorRT name and call in the product exists in every version of the real bindings that its file claims."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.conformance.bindings import ROOT, RTX, VERSIONS, UnavailableError, extract_names
from tests.conformance.product_calls import check_source
from tests.conformance.table import load_table

PATTERNS = ("edge_runtime/backends/tensorrt*.py", "engines/targets/tensorrt*.py", "engines/calibration/entropy_*.py")
FILES = [path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]

TENSORRT_10 = tuple(version for version in VERSIONS if version.startswith("10."))


def claimed_versions(file: str) -> tuple[str, ...]:
    """Calibrators and precision flags are gone in TensorRT 11; files that need them say so in their names."""
    name = Path(file).name
    return TENSORRT_10 if "implicit" in name or name == "entropy_calibrator.py" else (*VERSIONS, RTX)


def problems(source: str, version: str = "10.3.0") -> list[str]:
    preface = "import tensorrt as trt\n"
    return check_source(preface + textwrap.dedent(source), load_table()[version]).problems


@pytest.mark.parametrize(("file", "version"), [(file, v) for file in FILES for v in claimed_versions(file)])
def test_the_product_uses_only_what_a_version_has(file: str, version: str) -> None:
    assert check_source((ROOT / file).read_text(encoding="utf-8"), load_table()[version]).problems == []


@pytest.mark.parametrize("file", FILES)
def test_the_product_does_use_tensorrt_in_these_files(file: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"\btrt\.(?!_)\w", source) or check_source(source, load_table()["10.3.0"]).used


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_the_committed_table_is_what_the_real_bindings_have(version: str) -> None:
    try:
        names = extract_names(version)
    except UnavailableError as error:
        pytest.skip(f"{error}; the committed table stands in for them")
    assert load_table()[version].entries == names


def test_a_name_that_does_not_exist_is_found() -> None:
    assert problems("trt.IInt8EntropyCalibrator3") == ["line 2: TensorRT 10.3.0: there is no IInt8EntropyCalibrator3"]


def test_a_method_is_followed_through_what_calls_return() -> None:
    source = """
        def build(logger: trt.ILogger):
            builder = trt.Builder(logger)
            network = builder.create_network(0)
            network.add_inptu("x", trt.float32, (1,))
    """
    assert problems(source) == ["line 6: TensorRT 10.3.0: there is no INetworkDefinition.add_inptu"]


def test_a_method_is_followed_through_attributes_of_self() -> None:
    source = """
        class Engine:
            runtime: trt.Runtime

            def run(self):
                self._context.execute_async_v4(0)
                self.runtime.deserialise(b"")

            def __init__(self, engine: trt.ICudaEngine | None):
                self._context = engine.create_execution_context()
    """
    assert [problem.rpartition(" ")[2] for problem in problems(source)] == [
        "IExecutionContext.execute_async_v4",
        "Runtime.deserialise",
    ]


def test_a_method_is_followed_through_functions_that_say_what_they_return() -> None:
    source = """
        def parser(network: "trt.INetworkDefinition") -> trt.OnnxParser:
            return trt.OnnxParser(network, trt.Logger())

        def parse(network):
            with open("x") as file:
                return parser(network).parse_bytes(file.read())
    """
    assert problems(source) == ["line 8: TensorRT 10.3.0: there is no OnnxParser.parse_bytes"]


@pytest.mark.parametrize(
    "call",
    [
        "builder.create_network(0, 0)",
        "builder.create_network(flag=0)",
        "trt.Builder()",
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)",
        "config.set_flag(trt.BuilderFlag.INT8, True)",
    ],
)
def test_a_call_with_other_arguments_is_found(call: str) -> None:
    source = f"def f(builder: trt.Builder, config: trt.IBuilderConfig):\n    {call}"
    assert [" takes no (" in problem for problem in problems(source)] == [True]


def test_a_call_with_any_of_its_overloads_is_right() -> None:
    source = """
        def f(runtime: trt.Runtime, builder: trt.Builder, reader: trt.IStreamReader):
            runtime.deserialize_cuda_engine(b"")
            runtime.deserialize_cuda_engine(stream_reader=reader)
            builder.create_network(flags=1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    """
    assert problems(source) == []


def test_what_cannot_be_followed_is_what_it_is_called() -> None:
    source = """
        class Engine:
            def run(self, config, engine: Any, context: Other):
                config.set_flags()
                engine.get_tensor_nam(0)
                self._context.execute_async_v4(0)
                context.is_no_execution_context_of_tensorrts()
                self.engine = context
                self.engine.neither_is_this()
                for layer in context.things():
                    layer.nor_this()
    """
    assert [problem.rpartition(" ")[2] for problem in problems(source)] == [
        "IBuilderConfig.set_flags",
        "ICudaEngine.get_tensor_nam",
        "IExecutionContext.execute_async_v4",
    ]


def test_an_assignment_to_what_cannot_be_assigned_is_found() -> None:
    source = """
        def f(config: trt.IBuilderConfig, engine: trt.ICudaEngine):
            config.progress_monitor = None
            engine.num_layers = 3
    """
    assert problems(source) == ["line 5: TensorRT 10.3.0: ICudaEngine.num_layers cannot be assigned to"]


def test_a_flag_that_is_gone_is_found_in_the_version_without_it() -> None:
    assert problems("trt.BuilderFlag.FP16", "10.16.1.11") == []
    assert problems("trt.BuilderFlag.FP16", "11.0.0.114") == [
        "line 2: TensorRT 11.0.0.114: there is no BuilderFlag.FP16"
    ]


def test_a_member_that_came_or_went_is_found_even_on_an_object_that_cannot_be_followed() -> None:
    source = "def f(anything):\n    anything.set_calibration_profile(None)"
    assert problems(source, "10.3.0") == []
    assert problems(source, "11.0.0.114") == [
        "line 3: TensorRT 11.0.0.114: no class has a member set_calibration_profile"
    ]


def test_a_name_that_is_asked_for_first_may_be_missing() -> None:
    source = """
        def f(runtime):
            if hasattr(trt, "IStreamReaderV2"):
                return trt.IStreamReaderV2
            return trt.IStreamReader
    """
    assert problems(source, "10.3.0") == []
    assert problems(source.replace('"IStreamReaderV2"', '"Runtime"'), "10.3.0") != []


def test_what_comes_with_a_name_that_is_asked_for_may_be_missing_too() -> None:
    source = """
        def f(config):
            if hasattr(trt, "ComputeCapability"):
                config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    """
    assert problems(source, "10.3.0") == []
    assert problems(source, RTX) == []
    assert problems(source.replace('"ComputeCapability"', '"Runtime"'), "10.3.0") != []


def test_names_imported_one_by_one_are_followed() -> None:
    assert problems("from tensorrt import Bilder") == ["line 2: TensorRT 10.3.0: there is no Bilder"]
    assert problems("from tensorrt import Builder as B\nB()") == ["line 3: TensorRT 10.3.0: Builder takes no ()"]
