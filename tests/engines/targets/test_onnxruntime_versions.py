"""What an ONNX Runtime that is too old is told."""

import pytest

from edge_runtime.backends.onnxruntime import check_version
from edge_runtime.errors import MissingDependencyError


@pytest.mark.parametrize("installed", ["1.27.0", "1.31.1", "2.0.0", "1.28.0.dev20260101"])
def test_a_library_that_is_new_enough_is_taken(installed):
    check_version("kv_cache: int8", (1, 27), installed)


def test_one_that_is_too_old_is_refused_by_name():
    with pytest.raises(MissingDependencyError, match=r"kv_cache: int8 takes .* 1\.27 .* 1\.23\.2 is installed"):
        check_version("kv_cache: int8", (1, 27), "1.23.2")
