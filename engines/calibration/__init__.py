"""INT8 ranges from what calibration images cause inside a model; see docs/architecture.md, "Calibration"."""
