"""The double is as strict as TensorRT, and the device below it as strict as one can be on purpose."""

from __future__ import annotations

import numpy as np
import onnx
import pycuda.driver as cuda
import pytest
import tensorrt as trt

pytestmark = pytest.mark.simulated_jetson


@pytest.fixture(autouse=True)
def context():
    cuda.init()
    opened = cuda.Device(0).make_context()
    yield
    opened.pop()
    opened.detach()


def test_a_method_that_the_real_bindings_lack_is_not_there() -> None:
    with pytest.raises(AttributeError):
        trt.Builder(trt.Logger()).build_engine_twice()


def test_a_setting_that_the_real_bindings_lack_cannot_be_set() -> None:
    with pytest.raises(AttributeError, match="no attribute 'max_workspace'"):
        trt.Builder(trt.Logger()).create_builder_config().max_workspace = 1


def test_a_call_with_other_arguments_than_the_real_one_takes_is_refused() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        trt.Builder(trt.Logger()).create_network(0, 0)


def test_an_operator_of_another_vendor_is_no_tensorrt_layer() -> None:
    node = onnx.helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft")
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []), opset_imports=opsets)
    parser = trt.OnnxParser(trt.Builder(trt.Logger()).create_network(0), trt.Logger())
    assert not parser.parse(model.SerializeToString())
    assert "com.microsoft" in parser.get_error(0).desc()


def test_what_a_stream_was_given_has_not_happened_before_somebody_waits() -> None:
    there = cuda.mem_alloc(4)
    back = cuda.pagelocked_zeros(1, np.int32)
    stream = cuda.Stream()
    cuda.memset_d32_async(there, 7, 1, stream)
    cuda.memcpy_dtoh_async(back, there, stream)
    assert back[0] == 0
    stream.synchronize()
    assert back[0] == 7


def test_fresh_memory_holds_nan() -> None:
    back = np.zeros(2, np.float16)
    cuda.memcpy_dtoh(back, cuda.mem_alloc(4))
    assert np.isnan(back).all()


def test_memory_that_is_mapped_has_another_address_on_the_device() -> None:
    mapped = cuda.pagelocked_zeros(1, np.int32, mem_flags=cuda.host_alloc_flags.DEVICEMAP)
    on_device = mapped.base.get_device_pointer()
    assert on_device != mapped.ctypes.data
    cuda.memset_d32(on_device, 3, 1)
    assert mapped[0] == 3
    with pytest.raises(cuda.LogicError):
        cuda.memset_d32(mapped.ctypes.data, 3, 1)


def test_more_than_the_device_has_is_refused() -> None:
    _, total = cuda.mem_get_info()
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(total + 1)
    assert cuda.mem_get_info()[0] == total


def test_a_strided_copy_moves_rows_and_leaves_what_is_between_them() -> None:
    source, target = cuda.mem_alloc(6), cuda.mem_alloc(12)
    cuda.memcpy_htod(source, np.arange(6, dtype=np.uint8))
    cuda.memset_d8(target, 9, 12)
    copy = cuda.Memcpy2D()
    copy.set_src_device(int(source))
    copy.set_dst_device(int(target))
    copy.src_pitch, copy.dst_pitch, copy.width_in_bytes, copy.height = 2, 4, 2, 3
    copy(cuda.Stream())
    cuda.Context.synchronize()
    back = np.zeros(12, np.uint8)
    cuda.memcpy_dtoh(back, target)
    assert back.tolist() == [0, 1, 9, 9, 2, 3, 9, 9, 4, 5, 9, 9]
