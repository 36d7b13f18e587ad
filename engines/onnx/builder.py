"""One ONNX graph under construction, its weights streamed to disk as they come; knows no operator and no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_runtime.bundle.manifest import FileEntry, TensorSpec

OPSET = 21  # the first with blocked 4-bit Q/DQ, which TensorRT reads
_IR_VERSION = 10
_ALIGNMENT_BYTES = 64  # a cache line, and what vector loads like
_INLINE_LIMIT_BYTES = 1024  # smaller tensors live in the graph itself


class HashedFile:
    """A file being written, hashed on the way, so that it need not be read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        self._stream.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)

    def write_array(self, array: NDArray[Any]) -> int:
        """Append an array in C order at the next aligned offset, which is returned."""
        self.write(bytes(-self.size_bytes % _ALIGNMENT_BYTES))
        offset = self.size_bytes
        self.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return offset

    def close(self) -> FileEntry:
        """Close the file; returns the manifest's entry of the file."""
        self._stream.close()
        return FileEntry(self._path.name, self._digest.hexdigest(), self.size_bytes)


class Graph:
    """Nodes, inputs, outputs and weights of one ONNX file; ``with`` closes the weight file if emitting fails.

    Operators' domains other than ONNX's own are written before the name: ``"com.microsoft.QuickGelu"``. ``scope``
    begins the names of nodes, so that an inference engine's complaint says where it is: ``"layers.3/"``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = HashedFile(path.with_name(path.name + ".data"))
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self.scope = ""
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; returns its name."""
        self.inputs.append(TensorSpec(name, dtype, tuple(shape)))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str], value: str | None = None) -> str:
        """Declare an output: ``value`` under another name or, without it, what a later node produces under ``name``."""
        self.outputs.append(TensorSpec(name, dtype, tuple(shape)))
        if value is not None:
            self.nodes("Identity", [value], [name])
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        return self.nodes(operator, inputs, 1, **attributes)[0]

    def nodes(self, operator: str, inputs: Sequence[str], outputs: int | Sequence[str], **attributes: Any) -> list[str]:
        """Append a node with several outputs, counted or named ("" for one that isn't wanted); returns their names."""
        domain, _, op_type = operator.rpartition(".")
        name = f"{self.scope}{op_type}_{len(self._nodes)}"
        names = [f"{name}.{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._nodes.append(helper.make_node(op_type, inputs, names, name=name, domain=domain, **attributes))
        return names

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Write a constant, to the data file unless it is tiny; the same name twice is the same constant."""
        return self._constant(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)

    def int4(self, name: str, codes: NDArray[np.int8]) -> str:
        """Write a constant of ONNX's INT4, given as int8 from -8 to 7; two are stored a byte, the low nibble first."""
        pairs = np.resize(codes, -(-codes.size // 2) * 2).view(np.uint8)
        packed = pairs[0::2] & 0x0F | pairs[1::2] << 4
        return self._constant(name, TensorProto.INT4, codes.shape, packed)

    def _constant(self, name: str, dtype: int, shape: Sequence[int], stored: NDArray[Any]) -> str:
        if name not in self._initializers:
            tensor = onnx.TensorProto(name=name, dims=shape, data_type=dtype)
            if stored.nbytes <= _INLINE_LIMIT_BYTES:
                tensor.raw_data = stored.tobytes()
            else:
                location = {"location": f"{self._path.name}.data", "offset": self._data.write_array(stored)}
                for key, value in {**location, "length": stored.nbytes}.items():
                    tensor.external_data.add(key=key, value=str(value))
                tensor.data_location = TensorProto.EXTERNAL
            self._initializers[name] = tensor
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector, for shapes and axes."""
        return self.weight("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def save(self) -> tuple[FileEntry, FileEntry]:
        """Write the graph beside its weights; returns the entries of both files."""
        graph = helper.make_graph(
            self._nodes,
            self._path.stem,
            [_value_info(spec) for spec in self.inputs],
            [_value_info(spec) for spec in self.outputs],
            list(self._initializers.values()),
        )
        domains = sorted({"", *(node.domain for node in self._nodes)})
        opsets = [helper.make_opsetid(domain, 1 if domain else OPSET) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edge-engines")
        file = HashedFile(self._path)
        try:
            file.write(model.SerializeToString(deterministic=True))
        finally:
            entry = file.close()
        return entry, self._data.close()


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
