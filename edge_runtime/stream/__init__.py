"""A stream of frames: where they come from, which are inspected, and the loop over them."""
