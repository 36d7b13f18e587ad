"""TensorRT and TensorRT for RTX: engines on a CUDA device, every byte of which is counted."""
