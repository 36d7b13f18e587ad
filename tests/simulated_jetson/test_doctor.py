"""The doctor says which TensorRT and which device there are, and examines a bundle on them."""

from __future__ import annotations

import pytest

from edge_runtime.cli.doctor import examine
from tests.simulated_jetson import driver

pytestmark = pytest.mark.simulated_jetson


def test_tensorrt_and_the_device_are_named() -> None:
    nothing = driver.alive()
    found = {check.name: check.found for check in examine()}
    assert found["TensorRT"].startswith("10.3")
    assert found["CUDA"] == "Orin (simulated), compute capability 8.7, 16.43 GB"
    assert driver.alive() == nothing
