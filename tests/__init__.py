"""The specification: one behaviour a test, mirroring the tree."""
