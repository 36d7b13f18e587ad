"""Compilers: from an ONNX graph to a file that one inference engine loads."""
