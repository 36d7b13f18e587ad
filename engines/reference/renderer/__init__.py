"""Rendered scenes of bridges, and what a perfect report says of them."""
