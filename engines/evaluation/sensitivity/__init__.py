"""How much of a model's work hangs on the precision of each of its parts, measured by trying."""
