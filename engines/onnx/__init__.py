"""ONNX graphs as data: building, naming, widening and rounding them; knows no model."""
