"""The onboard half: open an engine bundle inside a byte budget and turn camera frames into inspection reports."""
