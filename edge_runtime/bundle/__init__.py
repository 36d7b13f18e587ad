"""An engine bundle on disk: its manifest, whether it contradicts itself, and whether its files are whole."""
