"""The flight page: one self-contained HTML file."""
