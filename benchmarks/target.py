"""The target that is fastest on this machine; knows no benchmark."""

from edge_runtime.backends.native import has_operators

FASTEST = "onnxruntime-amx" if has_operators() else "onnxruntime"
