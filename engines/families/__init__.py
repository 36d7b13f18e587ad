"""One file per model architecture; adding one touches nothing else."""
