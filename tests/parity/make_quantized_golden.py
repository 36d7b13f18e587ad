"""Write tests/golden/quantized-matrices.npz: one matrix as each tool's own code packs it, and what that makes of it.

Run it where torch, autoawq 0.2.9, compressed-tensors 0.20, gptqmodel 7.7 and nvidia-modelopt 0.47 are installed:
``python -m tests.parity.make_quantized_golden``
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "quantized-matrices.npz"
ROWS, COLUMNS, GROUP = 32, 96, 32


def main() -> None:
    """Pack the matrix by every tool."""
    torch = import_module("torch")
    bits = np.random.PCG64(11).random_raw(ROWS * COLUMNS)
    weight = torch.tensor(((bits >> np.uint64(40)) / 2.0**24 - 0.4).astype(np.float32).reshape(ROWS, COLUMNS))
    found = {
        "awq": _awq(torch, weight),
        "gptq": _gptq(torch, weight),
        "compressed-tensors": _packed(torch, weight, symmetric=True),
        "compressed-tensors-asymmetric": _packed(torch, weight, symmetric=False),
        "modelopt": _modelopt(torch, weight),
    }
    arrays = {f"{tool}/{name}": tensor.numpy() for tool, own in found.items() for name, tensor in own.items()}
    np.savez_compressed(GOLDEN, **arrays)


def _ranges(torch: Any, weight: Any) -> tuple[Any, Any]:
    """Scales and zero points (N, groups) of an asymmetric matrix."""
    groups = weight.reshape(ROWS, -1, GROUP)
    scales = ((groups.amax(-1) - groups.amin(-1)) / 15).half().float()
    return scales, torch.round(-groups.amin(-1) / scales).clamp(0, 15)


def _linear(torch: Any, weight: Any) -> Any:
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = weight
    return linear


def _awq(torch: Any, weight: Any) -> dict[str, Any]:
    gemm = import_module("awq.modules.linear.gemm")
    gemm.get_best_device = lambda: "cpu"
    scales, zeros = (each.T.contiguous() for each in _ranges(torch, weight))
    packed = gemm.WQLinear_GEMM.from_linear(_linear(torch, weight.half()), 4, GROUP, False, scales, zeros)
    unpack = import_module("awq.utils.packing_utils").dequantize_gemm
    numbers = unpack(packed.qweight, packed.qzeros, packed.scales, 4, GROUP).T.contiguous()
    tensors = {"qweight": packed.qweight, "qzeros": packed.qzeros, "scales": packed.scales}
    return {**tensors, "numbers": numbers}


def _gptq(torch: Any, weight: Any) -> dict[str, Any]:
    """In its second format; the first stores zero points less one, as its ``convert_gptq_v2_to_v1`` has it."""
    quantized = import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear(
        bits=4, group_size=GROUP, sym=False, desc_act=False, in_features=COLUMNS, out_features=ROWS
    )
    scales, zeros = _ranges(torch, weight)
    groups = (torch.arange(COLUMNS) // GROUP).int()
    quantized.pack_original(_linear(torch, weight), scales, zeros, groups)
    quantized.post_init()
    numbers = quantized.dequantize_weight().T.contiguous()
    names = ("qweight", "qzeros", "scales", "g_idx")
    return {**{name: getattr(quantized, name) for name in names}, "numbers": numbers}


def _packed(torch: Any, weight: Any, *, symmetric: bool) -> dict[str, Any]:
    schemes = import_module("compressed_tensors.quantization")
    compressor = import_module("compressed_tensors.compressors.pack_quantized.base").PackedQuantizationCompressor
    arguments = schemes.QuantizationArgs(
        num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP
    )
    scheme = schemes.QuantizationScheme(targets=["Linear"], weights=arguments)
    scales, zeros = _ranges(torch, weight)
    if symmetric:
        scales, zeros = (weight.reshape(ROWS, -1, GROUP).abs().amax(-1) / 7).half().float(), zeros * 0 + 8
    state = {"weight": weight, "weight_scale": scales, "weight_zero_point": (zeros - 8).to(torch.int8)}
    packed = compressor.compress(state, scheme)
    numbers = compressor.decompress(dict(packed), scheme)["weight"]
    return {**packed, "numbers": numbers}


def _modelopt(torch: Any, weight: Any) -> dict[str, Any]:
    scales = (weight.reshape(ROWS, -1, GROUP).abs().amax(-1) / 7).half().float()
    packed = import_module("modelopt.torch.export.quant_utils").pack_int4_in_uint8(weight, scales, GROUP)
    columns = scales.repeat_interleave(GROUP, dim=1)
    numbers = (weight / columns).round().clamp(-8, 7) * columns
    return {"weight": packed, "weight_scale": scales, "numbers": numbers}


if __name__ == "__main__":
    main()
