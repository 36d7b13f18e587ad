"""``EntropyCalibrator`` on NVIDIA's real bindings: derives from theirs and keeps caches; refused where it ended."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.conformance.bindings import VERSIONS, UnavailableError, run_python

WITH_CALIBRATORS = [version for version in VERSIONS if version.startswith("10.")]
WITHOUT = [version for version in VERSIONS if version not in WITH_CALIBRATORS]

CALIBRATE = """
    import json, tempfile
    from pathlib import Path
    import tensorrt
    from engines.calibration.entropy_calibrator import EntropyCalibrator
    from engines.calibration.images import open_images
    from engines.calibration.activation_runner import open_runner
    from tests.engines.calibration.graphs import MODEL, PROMPT, TinyEmbedding, save, two_layers

    folder = Path(tempfile.mkdtemp())
    graph, cache = save(two_layers(), folder / "graph.onnx"), folder / "graph.cache"
    with open_runner(open_images("rendered:1"), MODEL.image, MODEL.positions, PROMPT, TinyEmbedding()) as walk:
        with EntropyCalibrator(walk, graph, cache) as first:
            found = first.read_calibration_cache()
            first.write_calibration_cache(memoryview(b"TRT-100300-EntropyCalibration2\\nx: 3c009976\\n"))
        with EntropyCalibrator(walk, graph, cache) as second:
            print(json.dumps({
                "derives": isinstance(second, tensorrt.IInt8EntropyCalibrator2),
                "algorithm": second.get_algorithm().name,
                "batch_size": second.get_batch_size(),
                "found": found,
                "kept": second.read_calibration_cache().decode(),
                "version": second._binding.tensorrt,
            }))
"""


def run(version: str, code: str) -> Any:
    try:
        done = run_python(version, textwrap.dedent(code))
    except UnavailableError as error:
        pytest.skip(f"{error}; the simulated Jetson has a double of them")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", WITH_CALIBRATORS)
def test_it_is_an_entropy_calibrator_of_tensorrts_and_keeps_what_it_finds(version: str) -> None:
    assert run(version, CALIBRATE) == {
        "derives": True,
        "algorithm": "ENTROPY_CALIBRATION_2",
        "batch_size": 1,
        "found": None,
        "kept": "TRT-100300-EntropyCalibration2\nx: 3c009976\n",
        "version": ".".join(version.split(".")[:3]),
    }


@pytest.mark.parametrize("version", WITHOUT)
def test_where_calibrators_ended_it_is_refused_with_the_way_on(version: str) -> None:
    code = """
        import json
        from edge_runtime.errors import MissingDependencyError
        try:
            import engines.calibration.entropy_calibrator
        except MissingDependencyError as error:
            print(json.dumps(str(error)))
    """
    assert run(version, code).startswith(f"TensorRT {version} has no calibrators, as they ended with TensorRT 10;")
    assert "explicit route" in run(version, code)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_goes_by_the_calibrator_where_there_is_one(version: str) -> None:
    code = """
        import json, tensorrt
        from edge_runtime.errors import BackendError
        from engines.targets.tensorrt import int8_route

        def route(asked):
            try:
                return int8_route(tensorrt, asked)
            except BackendError as error:
                return str(error)

        print(json.dumps([route(None), route("explicit"), route("implicit")]))
    """
    chosen, explicit, implicit = run(version, code)
    assert explicit == "explicit"
    if version in WITH_CALIBRATORS:
        assert (chosen, implicit) == ("implicit", "implicit")
    else:
        assert chosen == "explicit"
        assert implicit.startswith(f"TensorRT {version} has no calibrators, as they ended with TensorRT 10;")
