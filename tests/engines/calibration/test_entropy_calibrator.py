"""TensorRT's calibration on the simulated Jetson: its ranges are those of the CPU, and no failure goes unheard."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from edge_runtime.errors import CalibrationError, SourceError
from engines.calibration.activation_runner import open_runner
from engines.calibration.cache import scales_from_text
from engines.calibration.images import open_images
from engines.calibration.scales import binding_of, calibrate_on_cpu
from engines.layers.lowering.tensorrt import TensorRTLowering
from engines.onnx.tensors import load_graph, tensors_in_products
from tests.engines.calibration.graphs import MODEL, PROMPT, TinyEmbedding, emit_parts

pytestmark = pytest.mark.simulated_jetson

ANSWERS = ((70, 71, 72), (80, 81, 82))
ORDER = ["vision_encoder", "connector", "decoder.00", "decoder.01", "lm_head"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return emit_parts(tmp_path_factory.mktemp("parts"), TensorRTLowering)


@contextmanager
def walk_before(name, parts, images="rendered:3"):
    """A runner up to the component of that name."""
    with open_runner(open_images(images), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding(), ANSWERS) as runner:
        for earlier in ORDER[: ORDER.index(name)]:
            runner.skip(parts[earlier])
        yield runner


def calibrated_build(runner, graph, cache, method="entropy"):
    """What TensorRT's builder does with a calibrator; the engine, or None."""
    import tensorrt as trt

    from engines.calibration.entropy_calibrator import EntropyCalibrator

    logger = trt.Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, logger).parse_from_file(str(graph))
    config = builder.create_builder_config()
    for flag in (trt.BuilderFlag.FP16, trt.BuilderFlag.INT8):
        config.set_flag(flag)
    profile = builder.create_optimization_profile()
    for name, shape in runner.shapes(graph).items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    config.set_calibration_profile(profile)
    with EntropyCalibrator(runner, graph, cache, method) as calibrator:
        config.int8_calibrator = calibrator
        return builder.build_serialized_network(network, config)


@pytest.mark.parametrize("name", ORDER)
def test_its_ranges_are_those_that_the_cpu_finds(name, parts, tmp_path):
    with walk_before(name, parts) as runner:
        assert calibrated_build(runner, parts[name], tmp_path / "gpu.cache")
    with walk_before(name, parts) as runner:
        expected = calibrate_on_cpu(runner, parts[name], tmp_path / "cpu.cache", "10.3.0")

    found = scales_from_text((tmp_path / "gpu.cache").read_text())
    assert list(found) == list(expected) == tensors_in_products(load_graph(parts[name]))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_cache_from_the_cpu_spares_it_all_batches(parts, tmp_path):
    with walk_before("decoder.00", parts) as runner:
        calibrate_on_cpu(runner, parts["decoder.00"], tmp_path / "x.cache", "10.3.0")
        written = (tmp_path / "x.cache").read_bytes()
    with walk_before("decoder.00", parts) as runner:
        for earlier in ORDER[:2]:
            parts[earlier].rename(parts[earlier].with_suffix(".away"))  # so that no image can pass
        try:
            assert calibrated_build(runner, parts["decoder.00"], tmp_path / "x.cache")
        finally:
            for earlier in ORDER[:2]:
                parts[earlier].with_suffix(".away").rename(parts[earlier])

    assert (tmp_path / "x.cache").read_bytes() == written


def test_what_tensorrt_found_is_a_fresh_cache_on_the_cpu(parts, tmp_path):
    with walk_before("vision_encoder", parts) as runner:
        calibrated_build(runner, parts["vision_encoder"], tmp_path / "x.cache")
    written = (tmp_path / "x.cache").stat().st_mtime_ns
    with walk_before("vision_encoder", parts) as runner:
        calibrate_on_cpu(runner, parts["vision_encoder"], tmp_path / "x.cache", "10.3.0")

    assert (tmp_path / "x.cache").stat().st_mtime_ns == written


def test_ranges_by_another_method_are_the_cpus(parts, tmp_path):
    with walk_before("decoder.00", parts) as runner:
        assert calibrated_build(runner, parts["decoder.00"], tmp_path / "gpu.cache", "percentile")
    with walk_before("decoder.00", parts) as runner:
        calibrate_on_cpu(runner, parts["decoder.00"], tmp_path / "cpu.cache", "10.3.0", "percentile")

    assert (tmp_path / "gpu.cache").read_text() == (tmp_path / "cpu.cache").read_text()


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_walk_is_behind_the_component_afterwards(parts, tmp_path, method):
    with walk_before("vision_encoder", parts) as runner:
        calibrated_build(runner, parts["vision_encoder"], tmp_path / "x.cache", method)
        assert len(runner.samples(parts["connector"])) == 3


def test_batches_are_in_the_order_in_which_tensorrt_names_inputs(parts, tmp_path):
    import pycuda.driver as cuda

    from edge_runtime.backends.tensorrt.cuda import Device
    from engines.calibration.entropy_calibrator import EntropyCalibrator

    graph, device = parts["decoder.00"], Device()
    names = ["past_value.0", "hidden_states", "past_length"]
    with walk_before("decoder.00", parts) as runner:
        [first, *_] = runner.samples(graph)
        with EntropyCalibrator(runner, graph, tmp_path / "x.cache") as calibrator:
            addresses = calibrator.get_batch(names)
            found = {name: np.full_like(first[name], 7) for name in names}
            with device.current():
                for name, address in zip(names, addresses, strict=True):
                    cuda.memcpy_dtoh(found[name], address)
    device.close()

    for name in names:
        np.testing.assert_array_equal(found[name], first[name])
    assert first["hidden_states"].dtype == np.float32  # whatever the graph computes in
    assert found["hidden_states"].any()


def test_no_device_memory_is_left_taken(parts, tmp_path):
    import pycuda.driver as cuda

    from edge_runtime.backends.tensorrt.cuda import Device

    device = Device()

    def free_bytes():
        with device.current():
            return cuda.mem_get_info()[0]

    with walk_before("decoder.00", parts) as runner:
        calibrated_build(runner, parts["decoder.00"], tmp_path / "first.cache")
    before = free_bytes()
    with walk_before("decoder.00", parts) as runner:
        calibrated_build(runner, parts["decoder.00"], tmp_path / "second.cache")

    assert free_bytes() == before
    device.close()


@pytest.mark.parametrize("changed", ["images", "graph"])
def test_a_stale_cache_is_refused_before_anything_is_built(changed, parts, tmp_path):
    with walk_before("vision_encoder", parts) as runner:
        calibrated_build(runner, parts["vision_encoder"], tmp_path / "x.cache")
    graph = parts["vision_encoder"]
    if changed == "graph":
        model = load_graph(graph)
        model.graph.node[-1].name = "renamed"
        graph = graph.with_name("other.onnx")
        graph.write_bytes(model.SerializeToString())

    with (
        walk_before("vision_encoder", parts, "rendered:2" if changed == "images" else "rendered:3") as runner,
        pytest.raises(CalibrationError, match=f"is of another .*{changed}"),
    ):
        calibrated_build(runner, graph, tmp_path / "x.cache")


def test_what_fails_in_a_callback_is_raised_afterwards_and_no_cache_is_kept(parts, tmp_path):
    from engines.calibration.entropy_calibrator import EntropyCalibrator

    def ask_wrongly():
        with (
            walk_before("vision_encoder", parts) as runner,
            EntropyCalibrator(runner, parts["vision_encoder"], tmp_path / "x.cache") as calibrator,
        ):
            assert calibrator.get_batch(["nonsense"]) is None
            calibrator.write_calibration_cache(memoryview(b"TRT-100300-EntropyCalibration2\n"))

    with pytest.raises(CalibrationError, match="TensorRT asks for the input nonsense, and"):
        ask_wrongly()

    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_read_are_told_of_after_the_build(parts, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")

    with (
        walk_before("vision_encoder", parts, str(tmp_path)) as runner,
        pytest.raises(SourceError, match="holds no image that can be read"),
    ):
        calibrated_build(runner, parts["vision_encoder"], tmp_path / "x.cache")


def test_it_binds_a_cache_as_the_cpu_does(parts):
    with walk_before("vision_encoder", parts) as runner:
        assert binding_of(runner, parts["vision_encoder"], "10.3.0.26").tensorrt == "10.3.0"
