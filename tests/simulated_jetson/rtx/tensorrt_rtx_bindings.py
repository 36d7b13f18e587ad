"""TensorRT for RTX, which has the same names: the double again, where ``SIMULATED_TENSORRT`` names a version of it."""

import sys

import tensorrt

sys.modules[__name__] = tensorrt
