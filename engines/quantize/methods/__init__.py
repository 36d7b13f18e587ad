"""How weights are rounded: to nearest, by range search, GPTQ, AWQ and SmoothQuant."""
