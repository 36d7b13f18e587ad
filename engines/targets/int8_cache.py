"""Keys and values in 8 bits, as ONNX Runtime's GroupQueryAttention keeps them; knows attention nodes, and no weight.

Each channel of a head has one scale, by its largest magnitude on calibration images: the channels of a key differ by
far more than tokens do (Liu et al. 2024, KIVI, section 3). Scores and sums are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import CalibrationError
from engines.calibration.activation_runner import ActivationRunner
from engines.onnx.tensors import load_graph

Float32 = NDArray[np.float32]

INT8_CACHE_SINCE = (1, 27)  # ONNX Runtime's version: older ones have no such attention, or not on a CPU

_ATTENTION = "GroupQueryAttention"
_CACHED = ("past_", "present_")  # what tensors of keys and values are called
# Beyond what calibration images show: what is larger is cut off, and that costs more than one bit of eight. Logits of
# a random model with 2 images were off by 0.07 in the middle at 1, 0.03 at 1.25, 0.02 at 2, and 0.04 at 4.
_HEADROOM = 2.0
_LARGEST_CODE = 127
_OPTIONAL_INPUTS = 12  # of the attention, before the two scales


def with_int8_cache(runner: ActivationRunner, graph: Path, *, stay: bool = False) -> onnx.ModelProto:
    """The decoder group in ``graph``, which is up next, with a cache in 8 bits.

    The runner goes behind the group, unless it is to ``stay`` before it.

    Raises:
        CalibrationError: keys or values are not finite, or the graph is not up next.
        SourceError: there is no image to calibrate on.
    """
    model = load_graph(graph)
    attentions = [node for node in model.graph.node if node.op_type == _ATTENTION]
    look = runner.look if stay else runner.through
    peaks = look(graph, channel_peaks_of=[node.input[0] for node in attentions]).channel_peaks
    for node in attentions:
        qkv = peaks[node.input[0]]
        if not np.isfinite(qkv).all():
            raise CalibrationError(f"{node.input[0]} in {graph.name} is not finite on calibration images")
        heads, kv_heads = (helper.get_node_attr_value(node, name) for name in ("num_heads", "kv_num_heads"))
        width = len(qkv) // (heads + 2 * kv_heads)
        key, value = np.split(qkv[heads * width :].reshape(2 * kv_heads, width), 2)  # (kv heads, d)
        _set_scales(model, node, {"k": _scales(_rotated(key)), "v": _scales(value)})
    for tensor in (*model.graph.input, *model.graph.output):
        if tensor.name.startswith(_CACHED):
            tensor.type.tensor_type.elem_type = TensorProto.INT8
    return model


def int8_specs(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a decoder group, whose cache is one of 8 bits."""
    return tuple(replace(spec, dtype="int8") if spec.name.startswith(_CACHED) else spec for spec in specs)


def _rotated(peaks: Float32) -> Float32:
    """How large channels (kv heads, d) can become as rotary embedding turns each with its partner, half a head on."""
    first, second = np.split(peaks, 2, axis=1)
    return np.tile(np.hypot(first, second), 2)


def _scales(peaks: Float32) -> Float32:
    """The step of each channel, (kv heads * d,)."""
    scales = (_HEADROOM / _LARGEST_CODE * peaks).astype(np.float32).ravel()
    return np.where(scales > 0, scales, np.float32(1))


def _set_scales(model: onnx.ModelProto, node: NodeProto, scales: dict[str, Float32]) -> None:
    node.input.extend([""] * (_OPTIONAL_INPUTS - len(node.input)))
    for part, values in scales.items():
        name = f"{node.output[0]}.{part}_scale"
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        node.input.append(name)
        node.attribute.append(helper.make_attribute(f"{part}_quant_type", "PER_CHANNEL"))
    node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))
