"""Frames as pixels: resizing them for a vision encoder, and telling one view from another."""
