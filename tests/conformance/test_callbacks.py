"""What TensorRT calls back derives from its own classes in every version, and lets no exception out."""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.conformance.bindings import RTX, VERSIONS, UnavailableError, run_python

CODE = """
    import json
    from edge_runtime.backends.tensorrt_callbacks import open_allocator, open_logger

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


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_callbacks_are_tensorrts_own_and_let_no_exception_out(version: str) -> None:
    try:
        done = run_python(version, textwrap.dedent(CODE))
    except UnavailableError as error:
        pytest.skip(f"{error}; the simulated Jetson has a double of them")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "derive": True,
        "given": [0, 4096, 0],
        "asynchronously": 4096,
        "refusal": "no more",
        "taken back": [True, False, True],
        "freed": [4096, 4096],
        "complaints": ["grave"],
    }
