"""Small engines to run, on the double as on TensorRT itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorrt as trt
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8


def doubling_engine(path: Path, *profiles: tuple[int, int]) -> Path:
    """``y = 2 x``, float16 (1, T, 8); a profile is the least and the most that T may be."""
    shape = (1, "T", WIDTH)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in "xy")
    two = numpy_helper.from_array(np.array([2], np.float16), "two")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["y"])], "doubling", [x], [y], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    logger = trt.Logger()
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    config = builder.create_builder_config()
    for least, most in profiles or [(1, 4)]:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (1, least, WIDTH), (1, most, WIDTH), (1, most, WIDTH))
        config.add_optimization_profile(profile)
    path.write_bytes(builder.build_serialized_network(network, config))
    return path
