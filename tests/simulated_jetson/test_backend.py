"""Engines run on memory that is counted and shared, and whatever cannot be is refused in words."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorrt as trt

from edge_runtime.backends.tensorrt.backend import TensorRTBackend
from edge_runtime.backends.tensorrt.cuda import Device
from edge_runtime.backends.tensorrt.library import Library
from edge_runtime.errors import BackendError, BudgetExceededError
from tests.simulated_jetson import driver
from tests.simulated_jetson.graphs import WIDTH, doubling_engine

pytestmark = pytest.mark.simulated_jetson


def open_backend(limit_bytes: int | None = None) -> TensorRTBackend:
    return TensorRTBackend(Library(trt, Device(limit_bytes)), step_rows=4)


@pytest.fixture
def backend() -> Iterator[TensorRTBackend]:
    opened = open_backend()
    yield opened
    opened.close()


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    return doubling_engine(tmp_path / "doubling.engine")


def test_an_engine_reads_and_writes_arrays_of_python_without_a_copy(
    backend: TensorRTBackend, engine_file: Path
) -> None:
    x, y = backend.shared((1, 4, WIDTH), np.float16), backend.shared((1, 4, WIDTH), np.float16)
    run = backend.load(engine_file).bind({"x": x}, {"y": y})
    before = driver.count("copies")
    x[...] = 3
    run()
    backend.synchronize()
    assert (y == 6).all()
    assert driver.count("copies") == before


def test_nothing_has_happened_before_somebody_waits(backend: TensorRTBackend, engine_file: Path) -> None:
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    run = backend.load(engine_file).bind({"x": x}, {"y": y})
    x[...] = 3
    run()
    assert (y == 0).all()


@pytest.mark.jetson
def test_memory_begins_as_zeros_and_passes_from_engine_to_engine(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    between, y = backend.private((1, 2, WIDTH), np.float16), backend.shared((1, 2, WIDTH), np.float16)
    y[...] = 1
    engine.bind({"x": between}, {"y": y})()
    backend.synchronize()
    assert (y == 0).all()

    x = backend.shared((1, 2, WIDTH), np.float16)
    x[...] = 1
    engine.bind({"x": x}, {"y": between})()
    engine.bind({"x": between}, {"y": y})()
    backend.synchronize()
    assert (y == 4).all()

    backend.clear(between)
    engine.bind({"x": between}, {"y": y})()
    backend.synchronize()
    assert (y == 0).all()


def test_rows_are_appended_by_one_strided_copy(backend: TensorRTBackend, engine_file: Path) -> None:
    """(3, T, 8) behind row 2 of (3, 5, 8): the engine then reads each of the three from its beginning."""
    rows, target = backend.private((3, 4, WIDTH), np.float16), backend.private((3, 5, WIDTH), np.float16)
    engine, ones = backend.load(engine_file), backend.shared((1, 2, WIDTH), np.float16)
    ones[...] = 1
    for index in range(3):
        engine.bind({"x": ones}, {"y": rows[index : index + 1, :2]})()
    before = driver.count("copies")
    backend.append_rows(rows[:, :2], target, 2)
    y = backend.shared((3, 4, WIDTH), np.float16)
    for index in range(3):
        engine.bind({"x": target[index : index + 1, :4]}, {"y": y[index : index + 1]})()
    backend.synchronize()
    assert y[:, :, 0].tolist() == [[0, 0, 4, 4]] * 3
    assert driver.count("copies") == before + 1


@pytest.mark.jetson
def test_a_shape_outside_every_profile_is_refused_by_name(backend: TensorRTBackend, tmp_path: Path) -> None:
    engine = backend.load(doubling_engine(tmp_path / "two.engine", (2, 4), (1, 1)))
    x = backend.shared((1, 5, WIDTH), np.float16)
    with pytest.raises(
        BackendError, match=r"two\.engine was built for x from \(1, 1, 8\) to \(1, 1, 8\), not \(1, 5, 8\)"
    ):
        engine.bind({"x": x}, {"y": x})


@pytest.mark.jetson
@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_every_shape_of_a_profile_runs(backend: TensorRTBackend, tmp_path: Path, tokens: int) -> None:
    engine = backend.load(doubling_engine(tmp_path / "two.engine", (2, 4), (1, 1)))
    x, y = backend.shared((1, tokens, WIDTH), np.float16), backend.shared((1, tokens, WIDTH), np.float16)
    x[...] = 1
    engine.bind({"x": x}, {"y": y})()
    backend.synchronize()
    assert (y == 2).all()


@pytest.mark.jetson
def test_names_and_types_that_the_engine_does_not_have_are_refused(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    x, wide = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float32)
    with pytest.raises(BackendError, match=r"has the inputs \['x'\]"):
        engine.bind({"z": x}, {"y": x})
    with pytest.raises(BackendError, match="y is float16, and is given float32"):
        engine.bind({"x": x}, {"y": wide})


@pytest.mark.jetson
def test_memory_that_engines_cannot_reach_is_refused(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    ours = backend.shared((1, 4, 2 * WIDTH), np.float16)
    for x, says in ((np.zeros((1, 4, WIDTH), np.float16), "not memory of this device"), (ours[..., ::2], "contiguous")):
        run = engine.bind({"x": x}, {"y": ours[:, :, :WIDTH].reshape(1, -1, WIDTH)[:, :4]})
        with pytest.raises(BackendError, match=says):
            run()


def test_more_than_the_limit_is_refused_before_it_is_taken(engine_file: Path) -> None:
    backend = open_backend(limit_bytes=10_000)
    with pytest.raises(BudgetExceededError, match=r"20000 bytes more, and 10000 are left .* raise the budget"):
        backend.private((1, 10_000), np.float16)
    taken = backend.shared((1, 5_000), np.float16)
    with pytest.raises(BudgetExceededError, match=r"cannot load doubling\.engine: the engines ask for 2 bytes more"):
        backend.load(engine_file)
    assert backend.held_bytes == taken.nbytes
    backend.close()


def test_memory_that_nobody_refers_to_is_given_back(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    engine.bind(*({name: backend.shared((1, 1, WIDTH), np.float16)} for name in "xy"))()
    held_bytes = backend.held_bytes

    def run_twice() -> None:
        x, y = backend.private((1, 4, WIDTH), np.float16), backend.shared((1, 4, WIDTH), np.float16)
        run = backend.record([engine.bind({"x": x[:, :1]}, {"y": y[:, 1:2]})])
        for _ in range(2):
            run()
        assert backend.held_bytes > held_bytes

    run_twice()
    assert backend.held_bytes == held_bytes


def test_a_view_keeps_the_memory_that_it_shows(backend: TensorRTBackend) -> None:
    part, row = backend.private((2, 4), np.float16)[:1], backend.shared((2, 4), np.float16)[1]
    assert backend.held_bytes == 32
    row[...] = 1
    backend.clear(part)
    backend.synchronize()
    del part
    assert backend.held_bytes == 16
    del row
    assert backend.held_bytes == 0


def test_a_device_without_memory_is_named(backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATED_JETSON_BYTES", "1000")
    with pytest.raises(BudgetExceededError, match="the device has no 2000 bytes left"):
        backend.private((1000,), np.float16)


def test_every_allocation_may_fail_and_nothing_leaks(engine_file: Path) -> None:
    nothing = driver.alive()
    refused = 0
    for successes in range(20):
        backend = open_backend()
        driver.fail_after(successes)
        try:
            x = backend.shared((1, 1, WIDTH), np.float16)
            run = backend.record([backend.load(engine_file).bind({"x": x}, {"y": x})])
            run()
        except BudgetExceededError:
            refused += 1
        backend.close()
        driver.fail_after(-1)
        assert driver.alive() == nothing
    assert 3 < refused < 20


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "cannot be read"), (b"junk", ""), (None, "cannot be read")],
)
def test_a_file_that_is_no_engine_is_refused(
    backend: TensorRTBackend, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "bad.engine").write_bytes(content)
    with pytest.raises(BackendError, match=rf"bad\.engine.*{says}"):
        backend.load(tmp_path / "bad.engine")


def test_an_engine_of_another_tensorrt_is_refused(backend: TensorRTBackend, engine_file: Path) -> None:
    ours = trt.__version__.encode()
    engine_file.write_bytes(engine_file.read_bytes().replace(ours, b"9" + ours[1:]))
    with pytest.raises(BackendError, match=r"built by TensorRT 9"):
        backend.load(engine_file)


def test_a_recording_becomes_one_launch_that_reads_what_is_new(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    between = backend.private((1, 1, WIDTH), np.float16)
    run = backend.record([engine.bind({"x": x}, {"y": between}), engine.bind({"x": between}, {"y": y})])
    launches = driver.count("graph_launches")
    for value in range(5):
        x[...] = value
        run()
        backend.synchronize()
        assert (y == 4 * value).all()
    assert driver.count("graph_launches") == launches + 4


def test_where_no_graph_can_be_recorded_engines_are_started_one_by_one(
    backend: TensorRTBackend, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_JETSON_WITHOUT_GRAPHS", "1")
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    run = backend.record([backend.load(engine_file).bind({"x": x}, {"y": y})])
    launches = driver.count("graph_launches")
    for value in range(3):
        x[...] = value
        run()
        backend.synchronize()
        assert (y == 2 * value).all()
    assert driver.count("graph_launches") == launches


def test_where_a_recording_finds_no_memory_engines_are_started_one_by_one(
    backend: TensorRTBackend, engine_file: Path
) -> None:
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    bound = backend.load(engine_file).bind({"x": x}, {"y": y})
    bound()
    launches, held_bytes = driver.count("graph_launches"), backend.held_bytes
    driver.fail_after(1)
    run = backend.record([bound, bound])
    assert backend.held_bytes == held_bytes
    for value in range(3):
        x[...] = value
        run()
        backend.synchronize()
        assert (y == 2 * value).all()
    driver.fail_after(-1)
    assert driver.count("graph_launches") == launches


@pytest.mark.jetson
def test_an_engine_that_is_closed_does_not_run(backend: TensorRTBackend, engine_file: Path) -> None:
    engine = backend.load(engine_file)
    x = backend.shared((1, 1, WIDTH), np.float16)
    run = engine.bind({"x": x}, {"y": x})
    run()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        run()


def test_all_contexts_compute_in_one_scratch(backend: TensorRTBackend, tmp_path: Path) -> None:
    engines = [backend.load(doubling_engine(tmp_path / f"{most}.engine", (1, most))) for most in (4, 400)]
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    runs = [engine.bind({"x": x}, {"y": y}) for engine in engines]
    runs[0]()
    held = backend.held_bytes
    runs[1]()
    backend.synchronize()
    grown = backend.held_bytes - held
    assert grown < 5_000  # a context's own; the scratch of 400 rows is 50 kB and was there


def test_an_engine_that_needs_more_scratch_may_come_later(backend: TensorRTBackend, tmp_path: Path) -> None:
    x, y = backend.shared((1, 1, WIDTH), np.float16), backend.shared((1, 1, WIDTH), np.float16)
    runs = []
    for most in (4, 400):
        engine = backend.load(doubling_engine(tmp_path / f"{most}.engine", (1, most)))
        runs.append(engine.bind({"x": x}, {"y": y}))
        runs[-1]()
    for value, run in enumerate(runs, start=1):
        x[...] = value
        run()
        backend.synchronize()
        assert (y == 2 * value).all()


def test_one_thread_may_open_another_run_and_a_third_close(engine_file: Path) -> None:
    nothing, made, seen = driver.alive(), [], []

    def opening() -> None:
        backend = open_backend()
        x = backend.shared((1, 1, WIDTH), np.float16)
        made.extend((backend, x, backend.load(engine_file).bind({"x": x}, {"y": x})))

    def running() -> None:
        backend, x, run = made
        x[...] = 1
        run()
        backend.synchronize()
        seen.append(x.max())

    for work in (opening, running, lambda: made[0].close()):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert seen == [2]
    made.clear()
    assert driver.alive() == nothing


def test_a_device_that_fails_is_told_and_closed(engine_file: Path) -> None:
    script = f"""
        from pathlib import Path
        import numpy as np
        import pycuda.driver as cuda
        from edge_runtime.errors import BackendError
        from tests.simulated_jetson import driver
        from tests.simulated_jetson.test_backend import open_backend
        backend = open_backend()
        x = backend.shared((1, 1, 8), np.float16)
        run = backend.load(Path({str(engine_file)!r})).bind({{"x": x}}, {{"y": x}})
        run()
        with backend._device.current():
            driver.fault()
        try:
            backend.synchronize()
        except BackendError as error:
            print(error)
        backend.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "illegal memory access" in done.stdout
    assert done.returncode == 0, done.stderr
