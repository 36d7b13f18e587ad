"""What TensorRT calls back derives from its own classes in every version, and lets no exception out."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.conformance.bindings import RTX, VERSIONS, UnavailableError, run_python

CODE = """
    import json
    from edge_runtime.backends.tensorrt.callbacks import open_allocator, open_logger

    class Source:
        freed = []

        def allocate(self, size_bytes):
            if size_bytes > 100:
                raise MemoryError("no more")
            return 4096

        def free(self, address):
            if address != 4096:
                raise KeyError(address)
            self.freed.append(address)

        def synchronize(self):
            pass

    allocator, logger = open_allocator(trt, Source()), open_logger(trt)
    given = [allocator.allocate(size, 256, 0) for size in (0, 100, 101)]
    logger.log(trt.ILogger.Severity.ERROR, "grave ")
    logger.log(trt.ILogger.Severity.WARNING, "not so grave")
    print(json.dumps({
        "derive": isinstance(allocator, trt.IGpuAllocator) and isinstance(logger, trt.ILogger),
        "given": given,
        "asynchronously": allocator.allocate_async(100, 256, 0, 0),
        "refusal": str(allocator.refusal),
        "taken back": [allocator.deallocate(4096), allocator.deallocate(8), allocator.deallocate_async(4096, 0)],
        "freed": Source.freed,
        "complaints": logger.complaints,
    }))
"""


def run(version: str, code: str) -> Any:
    try:
        done = run_python(version, textwrap.dedent(code))
    except UnavailableError as error:
        pytest.skip(f"{error}; the simulated Jetson has a double of them")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_callbacks_are_tensorrts_own_and_let_no_exception_out(version: str) -> None:
    assert run(version, CODE) == {
        "derive": True,
        "given": [0, 4096, 0],
        "asynchronously": 4096,
        "refusal": "no more",
        "taken back": [True, False, True],
        "freed": [4096, 4096],
        "complaints": ["grave"],
    }


PROGRESS = """
    import io, json, sys, time
    from engines.targets.tensorrt_compiler import open_monitor

    class Terminal(io.StringIO):
        is_interrupted = False

        def isatty(self):
            return True

        def write(self, text):
            if self.is_interrupted:
                raise KeyboardInterrupt
            return super().write(text)

    stderr, sys.stderr = sys.stderr, Terminal()
    monitor = open_monitor(trt, "decoder.00")
    monitor.phase_start("Building", None, 4)
    monitor.phase_start("Timing", "Building", 1000)
    time.sleep(0.2)  # bars are drawn ten times a second
    goes_on = [monitor.step_complete("Timing", 0), monitor.step_complete("Building", 3)]
    monitor.phase_finish("Timing")
    monitor.phase_finish("Building")
    drawn = sys.stderr.getvalue()
    sys.stderr.is_interrupted = True
    monitor.phase_start("Building", None, 4)  # the user presses Ctrl-C
    sys.stderr.is_interrupted = False
    goes_on += [monitor.step_complete("Building", 0)]
    monitor.phase_finish("Building")
    sys.stderr = stderr
    print(json.dumps({
        "derives": isinstance(monitor, trt.IProgressMonitor),
        "drawn": ["decoder.00: Building" in drawn, "4/4" in drawn, "Timing" in drawn],
        "goes on": goes_on,
        "failure": type(monitor.failure).__name__,
    }))
"""


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_progress_is_drawn_by_the_outermost_phase_and_an_interruption_ends_the_build(version: str) -> None:
    assert run(version, PROGRESS) == {
        "derives": True,
        "drawn": [True, True, False],
        "goes on": [True, True, False],
        "failure": "KeyboardInterrupt",
    }
