"""Tests that need keys and values in 8 bits say so: the ONNX Runtime that is the last for Python 3.10 has none."""

import pytest

from edge_runtime.backends.onnxruntime import check_version
from edge_runtime.errors import MissingDependencyError
from engines.targets.int8_cache import INT8_CACHE_SINCE


def _has_int8_cache() -> bool:
    try:
        check_version("kv_cache: int8", INT8_CACHE_SINCE)
    except MissingDependencyError:
        return False
    return True


needs_int8_cache = pytest.mark.skipif(not _has_int8_cache(), reason="this ONNX Runtime keeps no cache in 8 bits")
