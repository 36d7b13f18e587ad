"""Layers of models: each yields its parameters, what scales fold into, and its nodes."""
