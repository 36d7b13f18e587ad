"""Networks as the double knows them: an ONNX graph, with what an application says about its layers and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from ._real import ENUMS, VERSION, real

DataType, LayerType, Severity = ENUMS["DataType"], ENUMS["LayerType"], ENUMS["ILogger.Severity"]
_TYPES = {
    TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8", TensorProto.INT4: "INT4", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}  # fmt: skip
_LAYER_TYPES = {
    "MatMul": "MATRIX_MULTIPLY", "Softmax": "SOFTMAX", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    "LayerNormalization": "NORMALIZATION", "Cast": "CAST", "Gather": "GATHER", "Slice": "SLICE", "Conv": "CONVOLUTION",
    "Concat": "CONCATENATION", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "ReduceMean": "REDUCE",
    "Identity": "IDENTITY", "Sigmoid": "ACTIVATION",
}  # fmt: skip
_NEWEST_OPSET = 22


def type_of(onnx_type: int) -> Any:
    """TensorRT's type for ONNX's."""
    return getattr(DataType, _TYPES[onnx_type])


@real
class ILogger:
    """Where messages go; the application derives from it."""

    Severity = Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')


@real
class Logger(ILogger):
    """Prints what is grave enough."""

    Severity = Severity

    def __init__(self, min_severity: Any = Severity.WARNING) -> None:
        self._min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        print(f"[TRT] [{severity.name[0]}] {msg}")


for _member in Severity:
    setattr(ILogger, _member.name, _member)
    setattr(Logger, _member.name, _member)


def complain(logger: Any, message: str) -> None:
    """Log an error; the call that failed then gives None or False, as TensorRT does."""
    logger.log(Severity.ERROR, message)


@real
class ITensor:
    """A tensor of a network."""

    def __init__(self, name: str = "", dtype: Any = None, shape: tuple[int, ...] = ()) -> None:
        self._name, self._dtype, self._shape = name, dtype, shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape


@real
class ILayer:
    """A layer: here, a node of the ONNX graph."""

    def __init__(self, node: onnx.NodeProto, types: dict[str, Any]) -> None:
        self._node, self._types = node, types
        self._precision: Any = None
        self._output_types: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return str(self._node.name)

    @property
    def type(self) -> Any:
        return getattr(LayerType, _LAYER_TYPES.get(self._node.op_type, "ELEMENTWISE"))

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)

    def get_input(self, index: int) -> ITensor | None:
        return self._tensor(self._node.input, index)

    def get_output(self, index: int) -> ITensor | None:
        return self._tensor(self._node.output, index)

    @property
    def precision(self) -> Any:
        return self._precision or DataType.FLOAT

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = DataType(value)

    @property
    def precision_is_set(self) -> bool:
        return self._precision is not None

    def reset_precision(self) -> None:
        self._precision = None

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._output_types[index] = DataType(dtype)

    def get_output_type(self, index: int) -> Any:
        return self._output_types.get(index, DataType.FLOAT)

    def output_type_is_set(self, index: int) -> bool:
        return index in self._output_types

    def _tensor(self, names: Any, index: int) -> ITensor | None:
        name = names[index] if 0 <= index < len(names) else ""
        return ITensor(name, self._types.get(name)) if name else None


@real
class INetworkDefinition:
    """What a parser fills and a builder compiles."""

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: onnx.ModelProto | None = None
        self._layers: list[ILayer] = []
        self._name = ""

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags & 1 << int(flag))

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self._values("input"))

    def get_input(self, index: int) -> ITensor:
        return self._values("input")[index]

    @property
    def num_outputs(self) -> int:
        return len(self._values("output"))

    def get_output(self, index: int) -> ITensor:
        return self._values("output")[index]

    def _values(self, side: str) -> list[ITensor]:
        values = getattr(self._model.graph, side) if self._model else []
        return [ITensor(v.name, type_of(v.type.tensor_type.elem_type), shape_of(v)) for v in values]

    def _fill(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(structure_of(model)).graph
        values = [*inferred.input, *inferred.output, *inferred.value_info]
        known = {v.name: v.type.tensor_type.elem_type for v in values}
        types = {name: type_of(number) for name, number in known.items() if number in _TYPES}
        self._model = model
        self._layers = [ILayer(node, types) for node in model.graph.node]


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes, -1 where one is free."""
    return tuple(-1 if size.dim_param else size.dim_value for size in value.type.tensor_type.shape.dim)


def structure_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with large weights left out, which shape inference would copy."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="left out")
    return result


@real
class ParserError:
    """Why a graph was not taken."""

    def __init__(self, message: str, node: int = -1, name: str = "", operator: str = "") -> None:
        self._message, self._node, self._name, self._operator = message, node, name, operator

    def desc(self) -> str:
        return self._message

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


@real
class OnnxParser:
    """Takes ONNX's own operators, and none of another vendor."""

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse_from_file(self, model: str) -> bool:
        try:
            return self._take(onnx.load(model))
        except Exception as error:
            return self._refuse(ParserError(f"Failed to parse the file {Path(model).name}: {error}"))

    def parse(self, model: Any, path: str | None = None) -> bool:
        try:
            loaded = onnx.load_from_string(bytes(model))
            if path:
                onnx.load_external_data_for_model(loaded, str(Path(path).parent))
        except Exception as error:
            return self._refuse(ParserError(f"Failed to parse the model: {error}"))
        return self._take(loaded)

    def _take(self, model: onnx.ModelProto) -> bool:
        for opset in model.opset_import:
            if opset.domain in ("", "ai.onnx") and opset.version > _NEWEST_OPSET:
                return self._refuse(ParserError(f"opset {opset.version} is newer than {_NEWEST_OPSET}"))
        for number, node in enumerate(model.graph.node):
            if node.domain not in ("", "ai.onnx"):
                message = f"Plugin not found: {node.domain}::{node.op_type}, TensorRT {VERSION}"
                return self._refuse(ParserError(message, number, node.name, node.op_type))
        self._network._fill(model)
        return True

    def _refuse(self, error: ParserError) -> bool:
        self._errors.append(error)
        complain(self._logger, error.desc())
        return False
