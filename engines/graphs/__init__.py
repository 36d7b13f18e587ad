"""ONNX graph emitters, one per component."""
