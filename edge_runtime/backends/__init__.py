"""Adapters to inference engines; the only files that import them."""
