"""How rounded weights are stored: INT4, INT8 and NF4 matrices."""
